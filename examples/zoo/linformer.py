"""Linformer: every token sees a fixed number of keys, which are learned sums of all keys along the text.

Wang, Li, Khabsa, Fang, Ma: Linformer: Self-Attention with Linear Complexity, 2020 (arXiv 2006.04768), section 4.
``headwise`` shares one matrix for keys and one for values among the heads, ``shared`` uses one matrix for both.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "global, projected"
RANK = 256


@attnc.compile
def headwise(q: Tensor, k: Tensor, v: Tensor, e: Tensor, f: Tensor) -> Tensor:
    n = k.shape[2]
    k = torch.einsum("bhnd,nr->bhrd", k, e[:n])
    v = torch.einsum("bhnd,nr->bhrd", v, f[:n])
    scores = torch.einsum("bhnd,bhrd->bhnr", q, k) / sqrt(q.shape[-1])
    return torch.einsum("bhnr,bhrd->bhnd", F.softmax(scores, dim=-1), v)


@attnc.compile
def shared(q: Tensor, k: Tensor, v: Tensor, e: Tensor) -> Tensor:
    e = e[: k.shape[2]]
    k, v = (torch.matmul(x.transpose(2, 3), e).transpose(2, 3) for x in (k, v))
    return F.softmax(q @ k.transpose(-1, -2) / sqrt(q.shape[-1]), dim=-1) @ v


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    heads, n, longest, d, rank = (2, 61, 70, 6, 11) if small else (12, 4096, 4096, 64, RANK)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    e, f = torch.randn(2, longest, rank, generator=random) * rank**-0.5
    return {"headwise": (q, k, v, e, f), "shared": (q, k, v, e)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
