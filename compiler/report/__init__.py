"""``attnc inspect``: a function, its pattern, its program after every pass and its kernels on one page of HTML."""
