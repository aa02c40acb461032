"""P2AT: pooled pyramid features attend along rows and along columns, each squeezed to one line.

Elhassan, Zhou, Benabid, Adam: P2AT: Pyramid Pooling Axial Transformer for Real-time Semantic Segmentation, 2023
(arXiv 2310.15025), section 3.2.

The last projections and normalisations of the branches are left out; positions are tables of 16 places, resized.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "axial"


def _squeezed(q: Tensor, k: Tensor, v: Tensor, table: Tensor, heads: int, axis: int) -> Tensor:
    """Attention between the means over ``axis``: (B, heads * d_v, length)."""
    b, _, length = (q := q.mean(axis)).shape
    positions = F.interpolate(table, size=length, mode="linear", align_corners=False)
    q, k = ((x + positions).reshape(b, heads, -1, length) for x in (q, k.mean(axis)))
    v = v.mean(axis).reshape(b, heads, -1, length)
    attn = torch.matmul(q.permute(0, 1, 3, 2), k) * q.shape[2] ** -0.5
    return torch.matmul(attn.softmax(dim=-1), v.permute(0, 1, 3, 2)).permute(0, 1, 3, 2).reshape(b, -1, length)


@attnc.compile
def pyramid_axial(
    y: Tensor, mix: Tensor, weights: tuple[Tensor, ...], tables: tuple[Tensor, Tensor], heads: int
) -> Tensor:
    """Features (B, C, height, width); a grouped 3 x 3 convolution and 1 x 1 convolutions for q, k, v."""
    p1 = F.avg_pool2d(y, 3, stride=1, padding=1)
    p2 = F.avg_pool2d(p1, 5, stride=1, padding=2)
    p3 = F.avg_pool2d(p2, 7, stride=1, padding=3)
    u = F.conv2d(torch.cat([p1, p2, p3], dim=1), mix, padding=1, groups=y.shape[1]) * y
    q, k, v = (F.conv2d(u, w) for w in weights)
    rows = _squeezed(q, k, v, tables[0], heads, -1)
    columns = _squeezed(q, k, v, tables[1], heads, -2)
    return v + rows.unsqueeze(-1) + columns.unsqueeze(-2)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # the last stage at 736 x 960 pixels
    b, c, height, width, heads, d, dv = (1, 4, 5, 7, 2, 3, 4) if small else (4, 64, 23, 30, 8, 16, 32)
    y, mix = torch.randn(b, c, height, width), torch.randn(c, 3, 3, 3)
    weights = tuple(torch.randn(heads * n, c, 1, 1) / c**0.5 for n in (d, d, dv))
    tables = torch.randn(1, heads * d, 16), torch.randn(1, heads * d, 16)
    return {"pyramid_axial": (y, mix, weights, tables, heads)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
