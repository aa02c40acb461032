"""Neighborhood Attention of images: every pixel sees the k x k pixels around it, with a bias by displacement.

Hassani, Walton, Li, Li, Shi: Neighborhood Attention Transformer, 2022 (arXiv 2204.07143), section 3; Hassani, Shi:
Dilated Neighborhood Attention Transformer, 2022 (arXiv 2209.15001), section 3.1.

At borders the window is pushed inwards and never cut, so that every pixel has k x k neighbours; the bias slides along.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "windowed, dilated"


def _neighbours(query: Tensor, key: Tensor, length: int, kernel: int, dilation: int) -> Tensor:
    """On one axis: is the key in the window of the query, among pixels of the same residue?"""
    last = (length - query % dilation + dilation - 1) // dilation - kernel
    start = torch.minimum((query // dilation - kernel // 2).clamp(min=0), last)
    slot = key // dilation - start
    return (query % dilation == key % dilation) & (slot >= 0) & (slot < kernel)


@attnc.compile
def neighborhood(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kernel: int, dilation: int) -> Tensor:
    """Heads last, (B, height, width, H, D); bias (H, 2 k - 1, 2 k - 1)."""
    b, height, width, heads, d = q.shape
    q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    tokens = torch.arange(height * width)
    (qy, ky), (qx, kx) = ((t[:, None], t[None, :]) for t in (tokens // width, tokens % width))
    seen = _neighbours(qy, ky, height, kernel, dilation) & _neighbours(qx, kx, width, kernel, dilation)
    dy = ((ky - qy) // dilation).clamp(1 - kernel, kernel - 1) + kernel - 1
    dx = ((kx - qx) // dilation).clamp(1 - kernel, kernel - 1) + kernel - 1
    scores = (q * d**-0.5) @ k.transpose(-2, -1) + bias[:, dy, dx]
    out = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1) @ v
    return out.transpose(1, 2).reshape(b, height, width, heads, d)


@attnc.compile
def without_bias(q: Tensor, k: Tensor, v: Tensor, kernel: int) -> Tensor:
    """Heads last, as fused neighborhood attention without a bias takes it."""
    b, height, width, heads, d = q.shape
    tokens = torch.arange(height * width)
    y, x = tokens // width, tokens % width
    top = (y - kernel // 2).clamp(0, height - kernel)[:, None]
    left = (x - kernel // 2).clamp(0, width - kernel)[:, None]
    seen = (y >= top) & (y < top + kernel) & (x >= left) & (x < left + kernel)
    q, k, v = (t.reshape(b, height * width, heads, d).permute(0, 2, 1, 3) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return out.permute(0, 2, 1, 3).reshape(b, height, width, heads, d)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # NAT-T and DiNAT-T at 224 pixels, first stage
    shape, kernel, dilation = ((1, 10, 7, 2, 5), 3, 2) if small else ((1, 56, 56, 2, 32), 7, 8)
    q, k, v = (torch.randn(shape) for _ in range(3))
    bias = torch.randn(shape[3], 2 * kernel - 1, 2 * kernel - 1)
    return {"neighborhood": (q, k, v, bias, kernel, dilation), "without_bias": (q, k, v, kernel)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
