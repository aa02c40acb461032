"""Sliced Recursive Transformer: groups of tokens attend to themselves, in the second pass in another order.

Shen, Liu, Xing: Sliced Recursive Transformer, 2021 (arXiv 2111.05297), section 3.4.

The random order of the second pass is an argument, so that it is the same in every run.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "block"


def _group_attention(qkv: Tensor, groups: int) -> Tensor:
    b, n, _, heads, d = qkv.shape
    qkv = qkv.reshape(b, groups, n // groups, 3, heads, d).permute(3, 0, 1, 4, 2, 5)
    q, k, v = qkv.unbind(0)
    attn = (q @ k.transpose(-2, -1) * d**-0.5).softmax(dim=-1)
    return (attn @ v).transpose(2, 3).reshape(b, n, heads * d)


@attnc.compile
def first(qkv: Tensor, groups: int) -> Tensor:
    """Projections (B, N, 3, H, d)."""
    return _group_attention(qkv, groups)


@attnc.compile
def second(qkv: Tensor, order: Tensor, inverse: Tensor, groups: int) -> Tensor:
    """The tokens are taken in another order, attend in groups, and are put back."""
    return _group_attention(qkv[:, order], groups)[:, inverse]


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # SReT-S, first stage: 28 x 28 tokens, 3 heads of 42
    b, n, heads, d, groups = (1, 30, 2, 6, (3, 2)) if small else (8, 784, 3, 42, (8, 2))
    qkv, order = torch.randn(b, n, 3, heads, d), torch.randperm(n)
    return {"first": (qkv, groups[0]), "second": (qkv, order, order.argsort(), groups[1])}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
