"""DependencyViT: reversed attention, where a token shares its message out among those that it depends on.

Ding, Xu, Hu, et al.: Visual Dependency Transformers: Dependency Tree Emerges from Reversed Attention, 2023 (arXiv
2304.03282), section 3.1.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "dense"


@attnc.compile
def dependency_vit(q: Tensor, k: Tensor, v: Tensor, head: Tensor, message: Tensor) -> Tensor:
    """``head`` (B, H, N, 1) shares a token among the heads, ``message`` (B, 1, N, 1) says how much it still sends."""
    attention = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    attention = attention.softmax(dim=-1)
    attention = attention * head * message
    return attention.transpose(-2, -1) @ v


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d = (2, 3, 29, 8) if small else (8, 12, 196, 16)  # ViT-Tiny
    q, k, v = torch.randn(3, b, h, n, d)
    return {"dependency_vit": (q, k, v, (10 * torch.randn(b, h, n, 1)).softmax(1), torch.rand(b, 1, n, 1))}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
