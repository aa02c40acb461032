"""Combiner, axial: a pixel sees its own row so far, and every row above as one abstraction for its column.

Ren, Dai, Dai, Yang, Leskovec, Schuurmans, Dai: Combiner: Full Attention Transformer with Sparse Computation Cost, 2021
(arXiv 2107.05768), sections 3.2 and 4.3.

The abstraction of a row for a column is what the row's attention finds there; its key is a projection of that and of
the pixel, layer-normalised.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "hierarchical, axial, causal"


@attnc.compile
def rowmajor(x: Tensor, qkv: Tensor, w_out: Tensor, w_key: Tensor) -> Tensor:
    """Pixels (B, rows, columns, C), projections (3, B, rows, columns, H, d), and weights (C, C)."""
    q, k, v = qkv
    b, rows, columns, heads, d = q.shape
    q = q * d**-0.5
    row_scores = torch.einsum("bsuhd,bswhd->bhsuw", q, k)
    whole = torch.einsum("bhsuw,bswhd->bsuhd", row_scores.softmax(-1), v)
    hidden = F.layer_norm(x + whole.flatten(3) @ w_out, (heads * d,))
    key = (hidden @ w_key).unflatten(-1, (heads, d))

    ahead = torch.ones(columns, columns, dtype=torch.bool).triu(1)
    row_scores = row_scores.masked_fill(ahead, -torch.inf)
    below = torch.ones(rows, rows, dtype=torch.bool).triu()
    column_scores = torch.einsum("bsuhd,btuhd->bhsut", q, key).masked_fill(below[:, None, :], -torch.inf)
    p = torch.cat([row_scores, column_scores], -1).softmax(-1)
    own = torch.einsum("bhsuw,bswhd->bsuhd", p[..., :columns], v)
    return (own + torch.einsum("bhsut,btuhd->bsuhd", p[..., columns:], whole)).flatten(3)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, rows, columns, heads, d = (1, 3, 4, 2, 6) if small else (1, 64, 64, 8, 64)  # an image of 64 x 64
    c = heads * d
    x, qkv = torch.randn(b, rows, columns, c), torch.randn(3, b, rows, columns, heads, d) / 2
    return {"rowmajor": (x, qkv, torch.randn(c, c) / c**0.5, torch.randn(c, c) / c**0.5)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
