"""Sinkhorn Transformer: a block sees itself and one block of tokens that were sorted, softly, by blocks.

Tay, Bahri, Yang, Metzler, Juan: Sparse Sinkhorn Attention, 2020 (arXiv 2002.11296), section 3.  The sorting matrix is
learned from sums of blocks and made doubly stochastic by dividing rows and columns in turns.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "block"
BLOCK, ROUNDS, TEMPERATURE = 64, 7, 0.75


@attnc.compile
def sorted_blocks(q: Tensor, k: Tensor, v: Tensor, w_sort: Tensor, block: int, rounds: int) -> Tensor:
    b, heads, n, d = q.shape
    q, k, v = (x.reshape(b, heads, n // block, block, d) for x in (q, k, v))
    log_sort = (k.sum(dim=3) @ w_sort) / TEMPERATURE  # to which place each block goes
    for _ in range(rounds):
        log_sort = log_sort - torch.logsumexp(log_sort, dim=2, keepdim=True)
        log_sort = log_sort - torch.logsumexp(log_sort, dim=3, keepdim=True)
    sort = log_sort.exp()
    k_sorted, v_sorted = (torch.einsum("bhuw,bhwjd->bhujd", sort, x) for x in (k, v))
    keys, values = torch.cat([k, k_sorted], dim=3), torch.cat([v, v_sorted], dim=3)
    scores = torch.einsum("bhuid,bhujd->bhuij", q, keys) * d**-0.5
    out = torch.einsum("bhuij,bhujd->bhuid", scores.softmax(dim=-1), values)
    return out.reshape(b, heads, n, d)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    b, heads, count, block, d, rounds = (1, 2, 5, 7, 6, 2) if small else (2, 8, 64, BLOCK, 64, ROUNDS)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, b, heads, count * block, d, generator=random)
    w_sort = torch.randn(heads, d, count, generator=random) / (d * block) ** 0.5
    return {"sorted_blocks": (q, k, v, w_sort, block, rounds)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
