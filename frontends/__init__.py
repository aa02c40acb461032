"""User code -> attn IR: the decorator, the tracer, and the raising of traced ops to ``attn``."""
