"""attnc, an attention compiler: eager PyTorch attention in, fused CPU and GPU kernels out."""
