"""Longformer: a window of tokens and some global tokens in one softmax; global tokens see all, by projections of
their own.

Beltagy, Peters, Cohan: Longformer: The Long-Document Transformer, 2020 (arXiv 2004.05150), section 3.  Global keys
count once, so the window leaves them out; windows are cut off at both ends of the text.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "windowed, global"
WINDOW = 512


@attnc.compile
def window_and_globals(
    q: Tensor, k: Tensor, v: Tensor, q_all: Tensor, k_all: Tensor, v_all: Tensor, chosen: Tensor, window: int
) -> Tensor:
    """``chosen`` lists the global tokens; ``q_all``, ``k_all``, ``v_all`` are the second projections."""
    b, heads, n, d = q.shape
    q, q_all = q * d**-0.5, q_all * d**-0.5
    i = torch.arange(n)
    distance = (i[None, :] - i[:, None]).abs()
    is_global = torch.zeros(n, dtype=torch.bool).index_fill(0, chosen, True)
    local = torch.matmul(q, k.transpose(-1, -2))
    local = local.masked_fill((distance > window // 2) | is_global, float("-inf"))
    to_global = torch.matmul(q, k[:, :, chosen].transpose(-1, -2))
    weights = torch.cat([to_global, local], dim=-1).softmax(dim=-1)
    to_global, local = weights.split([len(chosen), n], dim=-1)
    out = torch.matmul(to_global, v[:, :, chosen]) + torch.matmul(local, v)
    rows = torch.matmul(q_all[:, :, chosen], k_all.transpose(-1, -2)).softmax(dim=-1)
    return out.index_copy(2, chosen, torch.matmul(rows, v_all))


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    heads, n, d, window, count = (2, 83, 6, 10, 3) if small else (12, 4096, 64, WINDOW, 16)
    random = torch.Generator().manual_seed(0)
    tensors = torch.randn(6, 1, heads, n, d, generator=random)
    chosen = torch.randperm(n, generator=random)[:count].sort().values
    return {"window_and_globals": (*tensors, chosen, window)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
