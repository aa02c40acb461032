"""Sparse Transformers: one head sees the row of the last tokens, another the column of every l-th token.

Child, Gray, Radford, Sutskever: Generating Long Sequences with Sparse Transformers, 2019 (arXiv 1904.10509), section
4.  In the fixed scheme columns are the last tokens of each row instead.  ``merged`` lets a head see both sets;
``transposed`` is the column head as attention inside blocks of transposed tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "dilated, block, causal"
STRIDE, SUMMARY = 128, 8


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    w = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    m = mask.to(w.dtype)
    return torch.matmul(torch.softmax(w * m - 1e9 * (1 - m), dim=-1), v)


def _positions(n: int) -> tuple[Tensor, Tensor]:
    return torch.arange(n)[:, None], torch.arange(n)[None, :]


@attnc.compile
def strided(q: Tensor, k: Tensor, v: Tensor, stride: int) -> Tensor:
    """Even heads see rows, odd heads columns."""
    i, j = _positions(q.shape[2])
    odd = (torch.arange(q.shape[1]) % 2 == 1)[:, None, None]
    return _attend(q, k, v, (j <= i) & torch.where(odd, (i - j) % stride == 0, i - j < stride))


@attnc.compile
def fixed(q: Tensor, k: Tensor, v: Tensor, stride: int, summary: int) -> Tensor:
    i, j = _positions(q.shape[2])
    odd = (torch.arange(q.shape[1]) % 2 == 1)[:, None, None]
    return _attend(q, k, v, (j <= i) & torch.where(odd, j % stride >= stride - summary, i // stride == j // stride))


@attnc.compile
def merged(q: Tensor, k: Tensor, v: Tensor, stride: int, summary: int) -> Tensor:
    i, j = _positions(q.shape[2])
    return _attend(q, k, v, (j <= i) & ((i // stride == j // stride) | (j % stride >= stride - summary)))


@attnc.compile
def transposed(q: Tensor, k: Tensor, v: Tensor, stride: int) -> Tensor:
    b, heads, n, d = q.shape
    q, k, v = (x.view(b, heads, n // stride, stride, d).transpose(2, 3) for x in (q, k, v))
    mask = torch.ones(n // stride, n // stride).tril()
    return _attend(q, k, v, mask).transpose(2, 3).reshape(b, heads, n, d)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    # CIFAR-10 as bytes: 3072 tokens, strided; text of 12288 bytes, fixed, does not fit eager
    heads, n, d, stride, summary = (4, 84, 6, 12, 2) if small else (8, 3072, 64, STRIDE, SUMMARY)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    both = {"strided": (q, k, v, stride), "transposed": (q, k, v, stride)}
    return {**both, "fixed": (q, k, v, stride, summary), "merged": (q, k, v, stride, summary)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
