"""Dual-Stream Transformer: causal attention over two streams; scalars mix the heads of values, scores are amplified.

Kerce, Fox: The Dual-Stream Transformer: Channelized Architecture for Interpretable Language Modeling, 2026
(arXiv 2603.07461), section 3.  Queries and keys read both streams, values and the result the token stream only.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal"


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


@attnc.compile
def dual_stream(
    tokens: Tensor, context: Tensor, w_q: Tensor, w_k: Tensor, mix_v: Tensor, mix_o: Tensor, amplify: float
) -> Tensor:
    """Dense projections of queries and keys; Kronecker ones, ``mix * identity``, of values and output."""
    h, n = mix_v.shape[0], tokens.shape[1]
    x = tokens + context
    q, k = _heads(x @ w_q, h), _heads(x @ w_k, h)
    v = torch.einsum("gh,bhnd->bgnd", mix_v, _heads(tokens, h))
    scores = amplify * torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5
    future = torch.arange(n, device=x.device)[None, :] > torch.arange(n, device=x.device)[:, None]
    weights = torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1)
    out = torch.einsum("bhij,bhjd->bhid", weights, v)
    out = torch.einsum("gh,bhnd->bgnd", mix_o, out)
    return tokens + out.transpose(1, 2).flatten(2)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d = (2, 3, 35, 8) if small else (4, 8, 512, 64)
    tokens, context = torch.randn(2, b, n, h * d) / 2
    w_q, w_k = torch.randn(2, h * d, h * d) / (h * d) ** 0.5
    mix_v, mix_o = torch.randn(2, h, h) / h**0.5
    return {"dual_stream": (tokens, context, w_q, w_k, mix_v, mix_o, 4.0)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
