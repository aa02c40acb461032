"""SAM's image encoder: relative positions by rows and by columns, in windows of 14 x 14 patches or over all of them.

Kirillov, Mintun, Ravi, et al.: Segment Anything, 2023 (arXiv 2304.02643), appendix A.  The decomposed positions are
those of Li, Wu, Fan, et al.: MViTv2, 2021 (arXiv 2112.01526), section 4.1.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "dense, block"


def _rows(table: Tensor, size: int) -> Tensor:
    """A row of ``table`` (2 size - 1, D) for each pair of positions along one axis."""
    position = torch.arange(size, device=table.device)
    return table[position[:, None] - position[None, :] + size - 1]


def _decomposed(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, size: tuple[int, int]) -> Tensor:
    (height, width), (b, n, d) = size, q.shape
    image = q.reshape(b, height, width, d)
    by_row = torch.einsum("bhwc,hkc->bhwk", image, _rows(rel_h, height))
    by_column = torch.einsum("bhwc,wkc->bhwk", image, _rows(rel_w, width))
    attn = (q * d**-0.5) @ k.transpose(-2, -1)
    attn = attn.view(b, height, width, height, width) + by_row[:, :, :, :, None] + by_column[:, :, :, None, :]
    return attn.view(b, n, n).softmax(dim=-1) @ v


@attnc.compile
def whole(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor, size: tuple[int, int]) -> Tensor:
    """``q``, ``k``, ``v`` (B * heads, H * W, D) of an image of ``size``."""
    return _decomposed(q, k, v, rel_h, rel_w, size)


@attnc.compile
def windows(x: Tensor, rel_h: Tensor, rel_w: Tensor, m: int) -> Tensor:
    """``x`` (3, B, heads, H, W, D) of queries, keys and values, in windows of ``m`` x ``m``."""
    _, b, heads, height, width, d = x.shape
    x = x.view(3, b, heads, height // m, m, width // m, m, d).permute(0, 1, 2, 3, 5, 4, 6, 7)
    q, k, v = x.reshape(3, -1, m * m, d).unbind(0)
    out = _decomposed(q, k, v, rel_h, rel_w, (m, m))
    out = out.view(b, heads, height // m, width // m, m, m, d).permute(0, 1, 2, 4, 3, 5, 6)
    return out.reshape(b, heads, height, width, d)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, size, d, m = (1, 2, (8, 12), 8, 4) if small else (1, 12, (56, 56), 64, 14)  # ViT-B, 64 x 64 less the padding
    of_image, of_window = ([torch.randn(2 * s - 1, d) / d**0.5 for s in sizes] for sizes in (size, (m, m)))
    x = torch.randn(3, b, h, *size, d)
    return {"whole": (*x.view(3, b * h, -1, d), *of_image, size), "windows": (x, *of_window, m)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
