"""ART: transparent layers share one grid, and only the tokens inside a layer's box attend, all to all, with the text.

Pu, Zhao, Tang, Yin, Ye, Yuan, Chen, Bao, Zhang, Wang, Liang, Wang, Li, Lian, Huang, Guo: ART: Anonymous Region
Transformer for Variable Multi-Layer Transparent Image Generation, 2025 (arXiv 2502.18364), section 3.3.

Boxes are given in tokens; rotary positions are in queries and keys already.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "dense, ragged"
Box = tuple[int, int, int, int]


@attnc.compile
def layers(text: Tensor, canvas: Tensor, boxes: tuple[Box, ...]) -> tuple[Tensor, Tensor]:
    """Projections (3, B, text, H, d) of the text and (3, B, layers, height, width, H, d) of the layers."""
    regions = [canvas[:, :, n, y0:y1, x0:x1].flatten(2, 3) for n, (x0, y0, x1, y1) in enumerate(boxes)]
    q, k, v = torch.cat([text, *regions], dim=2).transpose(2, 3)
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    words, *tokens = out.split([text.shape[2], *(r.shape[2] for r in regions)], dim=1)
    result = torch.zeros_like(canvas[0])
    for n, (x0, y0, x1, y1) in enumerate(boxes):
        result[:, n, y0:y1, x0:x1] = tokens[n].unflatten(1, (y1 - y0, x1 - x0))
    return words, result


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # FLUX's heads; 8 layers of 512 pixels, of which the first two cover everything
    b, n, size, h, d = (1, 7, 6, 2, 6) if small else (1, 256, 32, 24, 128)
    boxes: tuple[Box, ...] = ((0, 0, 6, 6), (1, 2, 4, 5), (3, 0, 6, 1))
    if not small:
        boxes = ((0, 0, 32, 32), (0, 0, 32, 32), (2, 4, 14, 12), (8, 8, 24, 20), (20, 2, 30, 8), (1, 24, 31, 30),
                 (5, 14, 13, 22), (18, 20, 28, 26))  # fmt: skip
    return {"layers": (torch.randn(3, b, n, h, d), torch.randn(3, b, len(boxes), size, size, h, d), boxes)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
