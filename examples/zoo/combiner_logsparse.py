"""Combiner, log-sparse: a token sees itself, and the past as one abstraction for every bit of its position.

Ren, Dai, Dai, Yang, Leskovec, Schuurmans, Dai: Combiner: Full Attention Transformer with Sparse Computation Cost, 2021
(arXiv 2107.05768), sections 3.2 and 4.2.

Position 13 sees tokens 12 to 12, 8 to 11 and 0 to 7; the abstraction of a range is as in the fixed form.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "hierarchical, dilated, causal"


def _summaries(q: Tensor, k: Tensor, v: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Key and value of every aligned range of ``size`` tokens."""
    if size == 1:
        return k, v
    q, k, v = (x.unflatten(2, (-1, size)) for x in (q, k, v))
    weights = (q.amax(3, keepdim=True) @ k.mT).softmax(-1)
    return k.amax(3), (weights @ v).squeeze(3)


@attnc.compile
def logsparse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n = q.shape[2]
    q = q * q.shape[-1] ** -0.5
    i = torch.arange(n)[:, None]
    scores, values = [(q @ k.mT).masked_fill(i != i.mT, -torch.inf)], [v]
    size = 1
    while size < n:
        key, value = _summaries(q, k, v, size)
        at = torch.arange(n // size)[None, :]
        seen = ((i // size) % 2 == 1) & (at == i // size - 1)
        scores.append((q @ key.mT).masked_fill(~seen, -torch.inf))
        values.append(value)
        size *= 2
    return torch.cat(scores, -1).softmax(-1) @ torch.cat(values, 2)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d = (1, 2, 32, 6) if small else (1, 8, 1024, 64)
    return {"logsparse": (torch.randn(b, h, n, d), torch.randn(b, h, n, d), torch.randn(b, h, n, d))}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
