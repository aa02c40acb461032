"""TransDAE: efficient attention, attention between channels, and attention to tokens that a convolution thins out.

Azad, Arimond, Aghdam, Kazerouni, Merhof: DAE-Former: Dual Attention-guided Efficient Transformer for Medical Image
Segmentation, 2022 (arXiv 2212.13504), sections 2.1 and 2.2; Erabati, Araujo: TransDAE, 2024 (arXiv 2409.02018).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "linear, channel, dense"


@attnc.compile
def efficient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, heads, channels, tokens)."""
    k, q = F.softmax(k, dim=3), F.softmax(q, dim=2)
    context = k @ v.transpose(2, 3)
    return context.transpose(2, 3) @ q


@attnc.compile
def channel(q: Tensor, k: Tensor, v: Tensor, temperature: Tensor) -> Tensor:
    """(B, heads, channels, tokens); ``temperature`` (heads, 1, 1)."""
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    weights = ((q @ k.transpose(-2, -1)) * temperature).softmax(dim=-1)
    return weights @ v


@attnc.compile
def reduced(q: Tensor, x: Tensor, reduce: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """``q`` (B, heads, tokens, D) attends to ``x`` (B, C, H, W), which a convolution of stride 2 reduces."""
    heads = q.shape[1]
    few = F.conv2d(x, reduce, stride=2).flatten(2).transpose(1, 2)
    k, v = ((few @ w).unflatten(-1, (heads, -1)).transpose(1, 2) for w in (w_k, w_v))
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, c, size = (2, 2, 6, 6) if small else (1, 8, 16, 56)
    q, k, v = torch.randn(3, b, h, c, size * size)
    x, reduce = torch.randn(b, h * c, size, size), torch.randn(h * c, h * c, 2, 2) / (4 * h * c) ** 0.5
    weights = torch.randn(2, h * c, h * c) / (h * c) ** 0.5
    inputs = {"efficient": (q, k, v), "channel": (q, k, v, 1 + torch.rand(h, 1, 1))}
    return inputs | {"reduced": (q.mT.contiguous(), x, reduce, *weights)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
