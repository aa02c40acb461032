"""Local attention of the Long Range Arena: every token sees its own block, the last block is padded.

Tay, Dehghani, Abnar, Shen, Bahri, Pham, Rao, Yang, Ruder, Metzler: Long Range Arena: A Benchmark for Efficient
Transformers, 2020 (arXiv 2011.04006), section 3.  ``strided`` makes blocks of every n-th token, as an equal reshape
with the sizes swapped does.  Padded keys are masked softly.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "block"
BLOCK = 50


def _attend(q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    scores = torch.where(real.unsqueeze(-2), scores, torch.full_like(scores, -1e10))
    return scores.softmax(-1) @ v


@attnc.compile
def blocks(q: Tensor, k: Tensor, v: Tensor, block: int) -> Tensor:
    b, heads, n, d = q.shape
    extra = -n % block
    if extra:
        q, k, v = (F.pad(x, (0, 0, 0, extra)) for x in (q, k, v))
    q, k, v = (x.reshape(b, heads, -1, block, d) for x in (q, k, v))
    real = (torch.arange(n + extra) < n).view(-1, block)
    return _attend(q, k, v, real).reshape(b, heads, n + extra, d)[:, :, :n]


@attnc.compile
def strided(q: Tensor, k: Tensor, v: Tensor, block: int) -> Tensor:
    b, heads, n, d = q.shape
    extra = -n % block
    if extra:
        q, k, v = (F.pad(x, (0, 0, 0, extra)) for x in (q, k, v))
    q, k, v = (x.reshape(b, heads, block, -1, d).transpose(2, 3) for x in (q, k, v))
    real = (torch.arange(n + extra) < n).view(block, -1).t()
    return _attend(q, k, v, real).transpose(2, 3).reshape(b, heads, n + extra, d)[:, :, :n]


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    b, heads, n, d, block = (1, 2, 61, 6, 7) if small else (4, 4, 4000, 64, BLOCK)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, b, heads, n, d, generator=random)
    return {"blocks": (q, k, v, block), "strided": (q, k, v, block)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
