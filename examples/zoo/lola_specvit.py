"""LoLA-SpecViT: a hyperspectral patch is one window of 7 x 7, padded with zeros, which attends with a relative bias.

Zidi, Boukhari, Sellam, Ouafi, Distante, Bekhouche, Taleb-Ahmed: LoLA-SpecViT: Local Attention SwiGLU Vision Transformer
with LoRA for Hyperspectral Imaging, 2025 (arXiv 2506.17759), section 3.

Padding is not masked: padded tokens are keys, with the bias of their projection. Projections are low-rank adapted.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "windowed, dense"


@attnc.compile
def window(
    x: Tensor, weight: Tensor, shift: Tensor, down: Tensor, up: Tensor, table: Tensor, place: Tensor, m: int
) -> Tensor:
    """An image (B, height, width, C) no larger than its window of m x m; ``place`` is the flat relative position."""
    b, height, width, c = x.shape
    x = F.pad(x, (0, 0, 0, m - width, 0, m - height)).view(b, m * m, c)
    qkv = F.linear(x, weight, shift) + 2.0 * F.linear(F.linear(x, down), up)
    heads = table.shape[1]
    q, k, v = qkv.reshape(b, m * m, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    attn = (q * (c // heads) ** -0.5) @ k.transpose(-2, -1)
    bias = table[place.view(-1)].view(m * m, m * m, heads)
    attn = (attn + bias.permute(2, 0, 1).unsqueeze(0)).softmax(dim=-1)
    out = (attn @ v).transpose(1, 2).reshape(b, m, m, c)
    return out[:, :height, :width]


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # second stage: 4 x 4 tokens of 192 channels, 8 heads, rank 16
    b, size, c, heads, m, rank = (2, 2, 14, 2, 3, 2) if small else (64, 4, 192, 8, 7, 16)
    y, x = torch.meshgrid(torch.arange(m), torch.arange(m), indexing="ij")
    y, x = ((t.flatten()[:, None] - t.flatten()[None, :]) + m - 1 for t in (y, x))
    weight, shift, down = 0.1 * torch.randn(3 * c, c), 0.1 * torch.randn(3 * c), torch.randn(rank, c) / c**0.5
    up, table = 0.02 * torch.randn(3 * c, rank), torch.randn((2 * m - 1) ** 2, heads)
    args = torch.randn(b, size, size, c), weight, shift, down, up, table, y * (2 * m - 1) + x, m
    return {"window": args}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
