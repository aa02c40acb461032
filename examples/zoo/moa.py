"""MoA: every head has a window of its own, which grows with the length of the text at a rate of its own, and sinks.

Fu, Huang, Ning, et al.: MoA: Mixture of Sparse Attention for Automatic Large Language Model Compression, 2024
(arXiv 2406.14909), section 4.  Windows are counted in blocks, the diagonal one included; the first block is the sink.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "windowed, global, causal"
BLOCK = 64


@attnc.compile
def elastic(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """``alpha`` tokens and ``beta`` of the length: the window of each head."""
    n = q.shape[2]
    window = (alpha // BLOCK + beta * (n // BLOCK)).trunc().clamp(min=1)
    i, j = torch.arange(n).unsqueeze(1), torch.arange(n).unsqueeze(0)
    near = (i // BLOCK - j // BLOCK) < window[:, None, None]
    seen = (near | (j < BLOCK)) & (j <= i)
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1])
    attn = torch.softmax(scores.masked_fill(seen.logical_not(), -torch.inf), dim=-1)
    return torch.einsum("bhij,bhjd->bhid", attn, v)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    # 8 of the 32 heads of Vicuna-7B, so that eager fits
    heads, n, d = (3, 197, 6) if small else (8, 4096, 128)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    alpha = torch.tensor([-64, 0, 128] if small else [0, 0, 0, -1024, 1024, 2048, 1024, 512])
    beta = torch.tensor([0.7, 0.4, 0.0] if small else [0.125, 0.25, 0.5, 0.75, 0.0, 0.0, 0.125, 0.125])
    return {"elastic": (q, k, v, alpha, beta)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
