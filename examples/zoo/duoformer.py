"""DuoFormer: the tokens of all scales of a region attend to each other, then the regions, each by one token.

Tang, Zhang, Knudsen, Tasdizen: DuoFormer: Leveraging Hierarchical Representations by Local and Global Attention
Vision Transformer, 2025 (arXiv 2506.12982), section III; earlier as arXiv 2407.13920.

Norms and perceptrons are left out; the token of a region that the second stage reads is its first.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "hierarchical, block, global"


@attnc.compile
def scales_then_patches(qkv: Tensor, cls: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Projections (B, regions, scales, 3, H, d), a class token (B, 1, C), and the second projection (3 C, C)."""
    b, regions, s, _, h, d = qkv.shape
    q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)
    attn = (q @ k.transpose(-2, -1)) * d**-0.5
    scale = (attn.softmax(dim=-1) @ v).transpose(2, 3).reshape(b, regions, s, h * d)
    patches = torch.cat((cls, scale[:, :, 0]), dim=1)
    q, k, v = F.linear(patches, weight).reshape(b, regions + 1, 3, h, d).permute(2, 0, 3, 1, 4)
    attn = (q @ k.transpose(-2, -1)) * d**-0.5
    out = (attn.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, regions + 1, h * d)
    return scale, out


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # four stages of a convolutional network: 1 + 64 + 16 + 4 + 1 tokens for each of 7 x 7 regions
    b, regions, s, h, d = (1, 3, 6, 2, 6) if small else (2, 49, 86, 6, 64)
    qkv, cls = torch.randn(b, regions, s, 3, h, d), torch.randn(b, 1, h * d)
    return {"scales_then_patches": (qkv, cls, torch.randn(3 * h * d, h * d) / (h * d) ** 0.5)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
