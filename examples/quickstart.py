"""Five attention patterns, written as plain eager PyTorch and compiled by one decorator.

Run it to compare every pattern with eager PyTorch and with ``scaled_dot_product_attention``::

    python examples/quickstart.py --out attnc-demo

or look at one function from the command line::

    attnc explain  examples/quickstart.py:dilated --shape B=1,H=8,N=1048576,D=64
    attnc dump     examples/quickstart.py:dilated --stage tile
    attnc validate examples/quickstart.py:hierarchical
"""

from __future__ import annotations

import torch
from torch import Tensor

import attnc

BLOCK = 128
WINDOW = 256
DILATION, TAPS = 8, 64
POOL = 64


def positions(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Query positions as a column and key positions as a row."""
    i = torch.arange(q.shape[-2], device=q.device)[:, None]
    j = torch.arange(k.shape[-2], device=q.device)[None, :]
    return i, j


def in_block(i: Tensor, j: Tensor) -> Tensor:
    return i // BLOCK == j // BLOCK


def in_window(i: Tensor, j: Tensor) -> Tensor:
    return (i - j).abs() <= WINDOW // 2


def on_tap(i: Tensor, j: Tensor) -> Tensor:
    """Every DILATION-th key to both sides, TAPS of them and the token itself."""
    return ((i - j).abs() <= DILATION * TAPS // 2) & ((i - j) % DILATION == 0)


def attend(q: Tensor, k: Tensor, v: Tensor, live: Tensor) -> Tensor:
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill(~live, float("-inf")).softmax(-1) @ v


@attnc.compile
def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token sees every token."""
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


@attnc.compile
def block(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token sees its own block."""
    return attend(q, k, v, in_block(*positions(q, k)))


@attnc.compile
def windowed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token sees its neighbours."""
    return attend(q, k, v, in_window(*positions(q, k)))


@attnc.compile
def dilated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token sees its neighbours of the same residue: a wide view with few keys."""
    return attend(q, k, v, on_tap(*positions(q, k)))


@attnc.compile
def hierarchical(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal: the own block token by token and the blocks before it as their means, in one softmax."""
    keys, values = (torch.cat([pooled(x), x], -2) for x in (k, v))
    return attend(q, keys, values, in_hierarchy(q, k))


def pooled(x: Tensor) -> Tensor:
    """The mean of every POOL tokens."""
    return x.unflatten(-2, (-1, POOL)).mean(-2)


def in_hierarchy(q: Tensor, k: Tensor) -> Tensor:
    i, j = positions(q, k)
    group = torch.arange(k.shape[-2] // POOL, device=q.device)[None, :]
    coarse = group < i // POOL
    fine = (i // POOL == j // POOL) & (j <= i)
    return torch.cat([coarse, fine], -1)


def example_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs for the command line when no --shape is given."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 8, 1024, 64, generator=generator)
    return q, k, v


if __name__ == "__main__":
    from _quickstart_report import main

    main()
