"""Token Transforming: tokens become fewer, each a soft mixture of all, around those that are attended to most.

Yu, Zeng, Tang, Kong and others: Token Transforming: A Unified and Training-Free Token Compression Framework for Vision
Transformer Acceleration, 2025 (arXiv 2506.05709), section 3.

A token matters as much as the class token attends to it; the mixture's weights are a softmax of cosine similarities.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "data-dependent, dense"
EAGER = "The class token's softmax ranks tokens, and topk keeps some: both stay with PyTorch, attention is fused."


@attnc.compile
def compress(x: Tensor, q: Tensor, k: Tensor, v: Tensor, keep: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Tokens (B, N, C), the class token first, and their projections (B, H, N, d)."""
    b, h, n, d = q.shape
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, h * d)
    matters = (q[:, :, :1] @ k.mT / d**0.5).softmax(-1).mean((1, 2))[:, 1:]
    chosen = matters.topk(keep, dim=-1).indices.sort(-1).values + 1
    bases = x.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1]))
    alike = F.normalize(bases, dim=-1) @ F.normalize(x, dim=-1).mT
    mixed = (alike / temperature).softmax(-1) @ x
    return out, torch.cat([x[:, :1], mixed], 1)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # DeiT-S, where 0.7 of 197 tokens are kept
    b, h, n, d, keep = (2, 2, 17, 6, 11) if small else (8, 6, 197, 64, 137)
    projections = tuple(torch.randn(b, h, n, d) for _ in range(3))
    return {"compress": (torch.randn(b, n, h * d), *projections, keep, 0.25)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
