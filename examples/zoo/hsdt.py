"""HSDT: attention between the bands of a hyperspectral image, found from band averages, the same for every pixel.

Lai, Yan, Fu: Hybrid Spectral Denoising Transformer with Guided Attention, 2023 (arXiv 2303.09040), section 3.3.
``learned`` has a learned query for each band, ``between_bands`` those of the image.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "channel"


def _apply(weights: Tensor, x: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    """The bands of every pixel, mixed by ``weights`` (B, bands, bands)."""
    v = torch.einsum("bcdhw,ce->bedhw", x, w_v)
    out = torch.einsum("bij,bejhw->beihw", weights, v)
    return torch.einsum("bedhw,ec->bcdhw", out, w_o) + x


@attnc.compile
def learned(x: Tensor, queries: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    """``x`` (B, C, bands, H, W); ``queries`` (C, bands)."""
    bands = x.mean(dim=(-2, -1)).transpose(1, 2)
    weights = torch.softmax((bands @ queries).transpose(1, 2), dim=-1)
    return _apply(weights, x, w_v, w_o)


@attnc.compile
def between_bands(x: Tensor, w_v: Tensor, w_o: Tensor) -> Tensor:
    bands = x.mean(dim=(-2, -1)).transpose(1, 2)
    weights = torch.softmax(bands @ bands.transpose(1, 2), dim=-1)
    return _apply(weights, x, w_v, w_o)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, c, bands, size = (2, 4, 7, 3) if small else (1, 16, 31, 64)
    x, (w_v, w_o) = torch.randn(b, c, bands, size, size), torch.randn(2, c, c) / c**0.5
    return {"learned": (x, torch.randn(c, bands), w_v, w_o), "between_bands": (x, w_v, w_o)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
