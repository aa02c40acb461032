"""Mixture-of-Recursions: the tokens that a router keeps for another recursion see the kept tokens before them.

Bae, Kim, Bayat, et al.: Mixture-of-Recursions: Learning Dynamic Recursive Depths for Adaptive Token-Level Computation,
2025 (arXiv 2507.10524), section 2.  The kept tokens are given, in the order of the text; gates of the router weigh
what is added to them.  ``shared`` keeps keys and values of the first recursion for all tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal, data-dependent"
HEADS = 9


def _heads(x: Tensor, w: Tensor, heads: int) -> Tensor:
    return (x @ w).unflatten(-1, (heads, -1)).transpose(1, 2)


def _rope(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


@attnc.compile
def recursion(x: Tensor, kept: Tensor, gate: Tensor, w: Tensor, w_out: Tensor, angles: Tensor, heads: int) -> Tensor:
    """``kept`` are positions (B, K); ``w`` holds the projections of queries, keys and values."""
    index = kept.unsqueeze(-1).expand(-1, -1, x.shape[-1])
    tokens = torch.gather(x, 1, index)
    q, k, v = (_heads(tokens, m, heads) for m in w)
    q, k = _rope(q, angles[kept]), _rope(k, angles[kept])
    mask = kept[:, None, None, :] <= kept[:, None, :, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2) @ w_out
    return x.scatter_add(1, index, out * gate.unsqueeze(-1))


@attnc.compile
def shared(tokens: Tensor, kept: Tensor, k: Tensor, v: Tensor, w_q: Tensor, angles: Tensor, heads: int) -> Tensor:
    """The kept ``tokens`` see the keys ``k`` of every token up to their own."""
    q = _rope(_heads(tokens, w_q, heads), angles[kept])
    j = torch.arange(k.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=j <= kept[:, None, :, None])


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    b, n, width, heads = (2, 47, 12, 2) if small else (4, 2048, 576, HEADS)  # 135M parameters
    count, d = n * 2 // 3, width // heads
    random = torch.Generator().manual_seed(0)
    x = torch.randn(b, n, width, generator=random)
    kept = torch.rand(b, n, generator=random).topk(count).indices.sort().values
    gate = torch.rand(b, count, generator=random)
    w = torch.randn(4, width, width, generator=random) * width**-0.5
    angles = torch.arange(n)[:, None] / 10000 ** (torch.arange(0, d, 2) / d)
    k, v = torch.randn(2, b, heads, n, d, generator=random)
    tokens = torch.randn(b, count, width, generator=random)
    both = {"recursion": (x, kept, gate, w[:3], w[3], angles, heads)}
    return {**both, "shared": (tokens, kept, k, v, w[0], angles, heads)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
