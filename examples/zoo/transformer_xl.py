"""Transformer-XL: causal attention over memory and segment, where a second product scores the distance.

Dai, Yang, Yang, Carbonell, Le, Salakhutdinov: Transformer-XL: Attentive Language Models beyond a Fixed-Length Context,
2019 (arXiv 1901.02860), section 3.3 and appendix B (the shift).
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal"


def _rel_shift(x: Tensor) -> Tensor:
    """From columns that count distances, farthest first, to columns that count keys."""
    b, h, n, m = x.shape
    padded = torch.cat([x.new_zeros(b, h, n, 1), x], dim=-1)
    return padded.view(b, h, m + 1, n)[:, :, 1:].reshape(b, h, n, m)


@attnc.compile
def transformer_xl(q: Tensor, k: Tensor, v: Tensor, r: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """``q`` (N, B, H, D); ``k`` and ``v`` (M, B, H, D) with the memory first; ``r`` (M, H, D); biases (H, D)."""
    n, m = q.shape[0], k.shape[0]
    content = torch.einsum("ibhd,jbhd->bhij", q + u, k)
    position = _rel_shift(torch.einsum("ibhd,jhd->bhij", q + w, r))
    scores = (content + position) * q.shape[-1] ** -0.5
    future = torch.ones(n, m, dtype=torch.bool, device=q.device).triu(1 + m - n)
    weights = torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1)
    return torch.einsum("bhij,jbhd->ibhd", weights, v)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, memory, d = (2, 3, 19, 12, 8) if small else (4, 8, 512, 512, 64)  # enwik8: 12 layers, 512 + 512
    m = n + memory
    distance = torch.arange(m - 1, -1, -1.0)[:, None] / 10000 ** torch.linspace(0, 1, h * d // 2)
    r = torch.cat([distance.sin(), distance.cos()], dim=-1) @ (torch.randn(h * d, h * d) / (h * d) ** 0.5)
    k, v = torch.randn(2, m, b, h, d)
    return {"transformer_xl": (torch.randn(n, b, h, d), k, v, r.view(m, h, d), *torch.randn(2, h, d))}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
