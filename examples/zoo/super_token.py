"""Super Token Attention: pixels find super tokens in the cells around them, which attend to each other, and back.

Huang, Zhou, Cao, He, Tan: Vision Transformer with Super Token Sampling, 2022 (arXiv 2211.11167), section 3.2.

Super tokens outside of the image are zeros that stay in the softmax. As in the authors' code, no gradient passes the
association of pixels with super tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "hierarchical, windowed, global"
EAGER = "Super tokens sum pixels by weights normalised over super tokens, without gradients: both are PyTorch's."


def _around(x: Tensor) -> Tensor:
    """The 3 x 3 cells around every cell: (B, cells, 9, C)."""
    b, c, rows, columns = x.shape
    return F.unfold(x, 3, padding=1).reshape(b, c, 9, rows * columns).permute(0, 3, 2, 1)


@attnc.compile
def super_tokens(x: Tensor, qkv: Tensor, proj: Tensor, cell: int, heads: int) -> Tensor:
    """An image (B, C, height, width), and the weights of the attention among super tokens."""
    b, c, height, width = x.shape
    rows, columns = height // cell, width // cell
    pixels = x.reshape(b, c, rows, cell, columns, cell).permute(0, 2, 4, 3, 5, 1)
    pixels = pixels.reshape(b, rows * columns, cell * cell, c)
    stokens = F.adaptive_avg_pool2d(x, (rows, columns))
    with torch.no_grad():
        affinity = (pixels @ _around(stokens).transpose(-1, -2) * c**-0.5).softmax(-1)
        total = affinity.sum(2).transpose(1, 2)
        total = F.fold(total, (rows, columns), 3, padding=1)
    gathered = (affinity.transpose(-1, -2) @ pixels).permute(0, 3, 2, 1).reshape(b, c * 9, rows * columns)
    stokens = F.fold(gathered, (rows, columns), 3, padding=1) / (total + 1e-12)

    tokens = F.linear(stokens.flatten(2).transpose(1, 2), qkv)
    q, k, v = tokens.reshape(b, rows * columns, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, rows * columns, c)
    stokens = F.linear(out, proj).transpose(1, 2).reshape(b, c, rows, columns)

    pixels = (affinity @ _around(stokens)).reshape(b, rows, columns, cell, cell, c)
    return pixels.permute(0, 5, 1, 3, 2, 4).reshape(b, c, height, width)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # SViT-S, second stage
    b, c, size, cell, heads = (1, 6, (6, 8), 2, 2) if small else (2, 128, (28, 28), 4, 2)
    args = torch.randn(b, c, *size), torch.randn(3 * c, c) / c**0.5, torch.randn(c, c) / c**0.5, cell, heads
    return {"super_tokens": args}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
