"""Inception Transformer: some channels attend on a pooled image, the others go through convolution and max pooling.

Si, Yu, Zhou, Zhou, Wang, Yan: Inception Transformer, 2022 (arXiv 2205.12956), section 3.1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "dense, pooling"


@attnc.compile
def mixer(x: Tensor, conv_in: Tensor, depth: Tensor, pool: Tensor, qkv: Tensor, fuse: Tensor, heads: int) -> Tensor:
    """An image (B, C, height, width); a third of the high channels' weights each, then the heads' channels."""
    b, _, height, width = x.shape
    high = conv_in.shape[1]
    first, second, low = x.split([high, high, x.shape[1] - 2 * high], dim=1)
    convolved = F.gelu(F.conv2d(F.conv2d(first, conv_in), depth, padding=1, groups=depth.shape[0]))
    maxima = F.gelu(F.conv2d(F.max_pool2d(second, 3, stride=1, padding=1), pool))

    small = F.avg_pool2d(low, 2)
    n = small.shape[2] * small.shape[3]
    tokens = small.flatten(2).transpose(1, 2)
    q, k, v = F.linear(tokens, qkv).reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    attn = ((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5).softmax(dim=-1)
    tokens = (attn @ v).transpose(2, 3).reshape(b, -1, small.shape[2], small.shape[3])
    low = F.interpolate(tokens, scale_factor=2, mode="nearest")

    y = torch.cat((convolved, maxima, low), dim=1)
    return y + F.conv2d(y, fuse, padding=1, groups=y.shape[1])


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # iFormer-S, first stage: 1 head of 32 channels, two branches of 32 that double
    b, size, high, heads, d = (2, 6, 3, 2, 5) if small else (2, 56, 32, 1, 32)
    low = heads * d
    x = torch.randn(b, 2 * high + low, size, size)
    conv_in, pool = (torch.randn(2 * high, high, 1, 1) / high**0.5 for _ in range(2))
    depth, qkv = torch.randn(2 * high, 1, 3, 3) / 3, torch.randn(3 * low, low) / low**0.5
    fuse = torch.randn(4 * high + low, 1, 3, 3) / 3
    return {"mixer": (x, conv_in, depth, pool, qkv, fuse, heads)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
