"""Neighborhood Attention in one dimension: every token sees the k tokens around it, fewer to one side at the ends.

Hassani, Walton, Li, Li, Shi: Neighborhood Attention Transformer, 2022 (arXiv 2204.07143), section 3; with gaps:
Hassani, Shi: Dilated Neighborhood Attention Transformer, 2022 (arXiv 2209.15001), section 3.1.

At the ends the window is pushed inwards and never cut; a causal window is cut.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "windowed, dilated"


def _gathered(x: Tensor, kernel: int) -> Tensor:
    """The neighbours of every token: (B, H, N, k, D)."""
    n = x.shape[-2]
    start = (torch.arange(n) - kernel // 2).clamp(0, n - kernel)
    return x[:, :, start[:, None] + torch.arange(kernel)]


@attnc.compile
def neighborhood(q: Tensor, k: Tensor, v: Tensor, kernel: int) -> Tensor:
    scores = torch.einsum("bhid,bhitd->bhit", q * q.shape[-1] ** -0.5, _gathered(k, kernel))
    return torch.einsum("bhit,bhitd->bhid", scores.softmax(-1), _gathered(v, kernel))


@attnc.compile
def dilated(q: Tensor, k: Tensor, v: Tensor, kernel: int, dilation: int) -> Tensor:
    n = q.shape[-2]
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    length = (n - i % dilation + dilation - 1) // dilation  # of the residue class
    start = (i // dilation - kernel // 2).clamp(min=0).minimum(length - kernel)
    inside = (j // dilation >= start) & (j // dilation < start + kernel)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill(~inside | (i % dilation != j % dilation), -torch.inf).softmax(-1) @ v


@attnc.compile
def dilated_causal(q: Tensor, k: Tensor, v: Tensor, kernel: int, dilation: int) -> Tensor:
    n = q.shape[-2]
    back = torch.arange(n)[:, None] - torch.arange(n)[None, :]
    inside = (back >= 0) & (back < kernel * dilation) & (back % dilation == 0)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return torch.where(inside, scores, -torch.inf).softmax(-1) @ v


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d, kernel, dilation = (1, 2, 67, 5, 6, 3) if small else (1, 4, 4096, 32, 63, 8)
    qkv = torch.randn(b, h, n, d), torch.randn(b, h, n, d), torch.randn(b, h, n, d)
    return {
        "neighborhood": (*qkv, kernel),
        "dilated": (*qkv, kernel, dilation),
        "dilated_causal": (*qkv, kernel, dilation),
    }


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
