"""Block Transformer: causal attention over blocks, and inside each block over its tokens and a prefix.

Ho, Bae, Kim, Jo, Kim, Schuster, Fisch, Thorne, Yun: Block Transformer: Global-to-Local Language Modeling for Fast
Inference, 2024 (arXiv 2406.02657), sections 2.2 and 2.3.

Queries, keys and values are given, positions included. What a block knows of its past is the output of the block
before, as a prefix; so the first block is not predicted, nor is anything after the last.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "hierarchical, block, causal"


@attnc.compile
def block_decoder(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One vector a block, (B, H, blocks, D)."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@attnc.compile
def token_decoder(prefix: Tensor, tokens: Tensor) -> Tensor:
    """Projections (3, B, blocks, P, H, D) of the prefixes and (3, B, blocks, L, H, D) of the tokens."""
    _, b, blocks, p, h, d = prefix.shape
    local = torch.cat([prefix[:, :, :-1], tokens[:, :, 1:, :-1]], dim=3)
    length = local.shape[3]
    q, k, v = local.reshape(3, b * (blocks - 1), length, h, d).transpose(2, 3)
    scores = q @ k.transpose(2, 3) / d**0.5
    scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), float("-inf"))
    out = F.softmax(scores, dim=-1) @ v
    return out.transpose(1, 2).reshape(b, blocks - 1, length, h * d)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, block, prefix, d = (1, 2, 44, 4, 2, 6) if small else (1, 16, 2048, 4, 2, 128)
    q, k, v = (torch.randn(b, h, n // block, d) for _ in range(3))
    pre, tokens = (torch.randn(3, b, n // block, size, h, d) for size in (prefix, block))
    return {"block_decoder": (q, k, v), "token_decoder": (pre, tokens)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
