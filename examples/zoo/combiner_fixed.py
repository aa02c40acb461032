"""Combiner, fixed: a token sees its own segment, and every earlier segment as one abstraction, in one softmax.

Ren, Dai, Dai, Yang, Leskovec, Schuurmans, Dai: Combiner: Full Attention Transformer with Sparse Computation Cost, 2021
(arXiv 2107.05768), sections 3.2 and 4.1.

A segment's key and query are maxima over its tokens; its value is what that query finds in the segment. Without
causality all segments are visible as abstractions, the own one too, as in the authors' code.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "hierarchical, block, causal"


def _attention(q: Tensor, k: Tensor, v: Tensor, m: int, causal: bool) -> Tensor:
    b, h, n, d = q.shape
    q, k, v = (x.reshape(b, h, n // m, m, d) for x in (q * d**-0.5, k, v))
    query, key = q.amax(3), k.amax(3)
    inner = torch.einsum("bhgd,bhgjd->bhgj", query, k).softmax(-1)
    value = torch.einsum("bhgj,bhgjd->bhgd", inner, v)

    direct = torch.einsum("bhgid,bhgjd->bhgij", q, k)
    summary = torch.einsum("bhgid,bhsd->bhgis", q, key)
    if causal:
        direct = direct.masked_fill(torch.ones(m, m, dtype=torch.bool).triu(1), -torch.inf)
        earlier = torch.ones(n // m, n // m, dtype=torch.bool).tril(-1)
        summary = summary.masked_fill(~earlier[:, None, :], -torch.inf)
    p = torch.cat([direct, summary], -1).softmax(-1)
    out = torch.einsum("bhgij,bhgjd->bhgid", p[..., :m], v) + torch.einsum("bhgis,bhsd->bhgid", p[..., m:], value)
    return out.reshape(b, h, n, d)


@attnc.compile
def fixed(q: Tensor, k: Tensor, v: Tensor, m: int) -> Tensor:
    return _attention(q, k, v, m, True)


@attnc.compile
def bidirectional(q: Tensor, k: Tensor, v: Tensor, m: int) -> Tensor:
    return _attention(q, k, v, m, False)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d, m = (1, 2, 30, 8, 6) if small else (1, 8, 4096, 64, 64)
    args = torch.randn(b, h, n, d), torch.randn(b, h, n, d), torch.randn(b, h, n, d), m
    return {"fixed": args, "bidirectional": args}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
