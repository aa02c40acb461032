"""MAELRE: early layers weigh features instead of tokens, tokens are merged, and late layers attend exactly.

Parag, Elgammal: Modality Agnostic Efficient Long Range Encoder, 2025 (arXiv 2507.19409), section 3.

The approximation is that of efficient attention: softmax over the features of queries and over the tokens of keys.
Neighbours are merged in pairs, weighted by how much alike they are.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "linear, dense"


@attnc.compile
def early(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Tokens (B, H, N, d), many more than features."""
    features = k.softmax(dim=-2).transpose(-1, -2) @ v
    return q.softmax(dim=-1) @ features


@attnc.compile
def late(x: Tensor, qkv: Tensor, heads: int) -> Tensor:
    """Pairs of tokens (B, N, C) become one, and what is left attends."""
    b, n, c = x.shape
    even, odd = x[:, ::2], x[:, 1::2]
    weight = torch.sigmoid(torch.nn.functional.cosine_similarity(even, odd, dim=-1)).unsqueeze(-1)
    merged = weight * even + (1 - weight) * odd
    q, k, v = (merged @ qkv).reshape(b, n // 2, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    attn = (q @ k.transpose(-1, -2) / (c // heads) ** 0.5).softmax(dim=-1)
    return (attn @ v).transpose(1, 2).reshape(b, n // 2, c)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d = (1, 2, 28, 6) if small else (1, 8, 4096, 64)
    tokens = tuple(torch.randn(b, h, n, d) for _ in range(3))
    c = h * d
    return {"early": tokens, "late": (torch.randn(b, n // 2, c), torch.randn(c, 3 * c) / c**0.5, h)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
