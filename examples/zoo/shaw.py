"""Relative position representations: keys with a learned part for each clipped distance from the query.

Shaw, Uszkoreit, Vaswani: Self-Attention with Relative Position Representations, 2018 (arXiv 1803.02155), section 3,
without the part of the values, which section 4.3 finds to be unnecessary.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "dense"


def _relative(table: Tensor, n: int, m: int, k: int) -> Tensor:
    """A row of ``table`` (2 k + 1, D) for each pair, by their clipped distance."""
    distance = torch.arange(m, device=table.device)[None, :] - torch.arange(n, device=table.device)[:, None]
    return table[distance.clamp(-k, k) + k]


@attnc.compile
def encoder(q: Tensor, k: Tensor, v: Tensor, table: Tensor, clip: int) -> Tensor:
    """Two products, as section 3.3 computes them."""
    relative = _relative(table, q.shape[2], k.shape[2], clip)
    scores = torch.matmul(q, k.transpose(2, 3)) + torch.einsum("bhid,ijd->bhij", q, relative)
    return torch.matmul(torch.softmax(scores / q.shape[-1] ** 0.5, dim=-1), v)


@attnc.compile
def decoder(q: Tensor, k: Tensor, v: Tensor, table: Tensor, clip: int) -> Tensor:
    """The sum of keys and positions as section 3.1 writes it, and causal."""
    n = q.shape[2]
    keys = k[:, :, None] + _relative(table, n, n, clip)
    scores = torch.einsum("bhid,bhijd->bhij", q, keys) / q.shape[-1] ** 0.5
    future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
    return torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1) @ v


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d, clip = (2, 3, 29, 8, 4) if small else (4, 8, 512, 64, 16)  # base
    args = *torch.randn(3, b, h, n, d), torch.randn(2 * clip + 1, d), clip
    return {"encoder": args, "decoder": args}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
