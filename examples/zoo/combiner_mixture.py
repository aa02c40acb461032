"""Combiner, axial mixture: a pixel sees its column and row, and all other rows and columns so far as abstractions.

Ren, Dai, Dai, Yang, Leskovec, Schuurmans, Dai: Combiner: Full Attention Transformer with Sparse Computation Cost, 2021
(arXiv 2107.05768), section 4.3.

Five sources share one softmax: the column above, the row so far, what is above in every other column, and the parts of
every row above to both sides of the column. As in the authors' code the mask is -1e9, also where nothing is above.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "hierarchical, axial, causal"
NEVER = -1e9


def _before(x: Tensor, dim: int) -> Tensor:
    """Maxima over everything before a place along ``dim``, zeros at the first."""
    most = x.cummax(dim).values
    return torch.cat([torch.zeros_like(most.narrow(dim, 0, 1)), most.narrow(dim, 0, x.shape[dim] - 1)], dim)


def _summaries(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Key and value of what is to the left of every pixel in its row: (B, H, rows, columns, d)."""
    query, key = _before(q, 3), _before(k, 3)
    hidden = torch.ones(q.shape[3], q.shape[3], dtype=torch.bool).triu()
    scores = torch.einsum("bhtud,bhtwd->bhtuw", query, k).masked_fill(hidden, NEVER)
    return key, torch.einsum("bhtuw,bhtwd->bhtud", scores.softmax(-1), v)


@attnc.compile
def mixture(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Projections (B, H, rows, columns, d)."""
    rows, columns, d = q.shape[2:]
    q = q * d**-0.5
    t, u = torch.arange(rows), torch.arange(columns)
    above, ahead = t[None, :] < t[:, None], u[None, :] > u[:, None]
    upper = [x.transpose(2, 3) for x in _summaries(*(x.transpose(2, 3) for x in (q, k, v)))]
    left, right = _summaries(q, k, v), [x.flip(3) for x in _summaries(q.flip(3), k.flip(3), v.flip(3))]

    below = ~above[:, None, :]
    scores = [
        torch.einsum("bhsud,bhtud->bhsut", q, k).masked_fill(below, NEVER),
        torch.einsum("bhsud,bhswd->bhsuw", q, k).masked_fill(ahead, NEVER),
        torch.einsum("bhsud,bhswd->bhsuw", q, upper[0]).masked_fill((t == 0)[:, None, None] | (u[:, None] == u), NEVER),
        torch.einsum("bhsud,bhtud->bhsut", q, left[0]).masked_fill(below | (u == 0)[:, None], NEVER),
        torch.einsum("bhsud,bhtud->bhsut", q, right[0]).masked_fill(below | (u == columns - 1)[:, None], NEVER),
    ]
    p = torch.cat(scores, -1).softmax(-1).split([s.shape[-1] for s in scores], -1)
    out = torch.einsum("bhsut,bhtud->bhsud", p[0], v) + torch.einsum("bhsuw,bhswd->bhsud", p[1], v)
    out = out + torch.einsum("bhsuw,bhswd->bhsud", p[2], upper[1])
    return out + torch.einsum("bhsut,bhtud->bhsud", p[3], left[1]) + torch.einsum("bhsut,bhtud->bhsud", p[4], right[1])


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, rows, columns, d = (1, 1, 3, 4, 6) if small else (1, 8, 64, 64, 64)  # an image of 64 x 64
    return {"mixture": tuple(torch.randn(b, h, rows, columns, d) for _ in range(3))}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
