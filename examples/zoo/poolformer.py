"""PoolFormer: every pixel takes the mean of its 3 x 3 neighbours, less itself, in place of attention.

Yu, Luo, Zhou, Si, Zhou, Wang, Feng, Yan: MetaFormer Is Actually What You Need for Vision, 2021 (arXiv 2111.11418),
section 3.2.

The mean is over neighbours that exist: four in a corner, six at an edge.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "pooling"
EAGER = "There is no attention in it: the mean is a pooling of PyTorch's."


@attnc.compile
def pooling(x: Tensor) -> Tensor:
    """An image (B, C, height, width)."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False) - x


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    return {"pooling": (torch.randn(*((2, 3, 5, 7) if small else (4, 64, 56, 56))),)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
