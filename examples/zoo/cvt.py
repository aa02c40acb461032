"""CvT: queries, keys and values are convolutions of the tokens' image, keys and values with stride two.

Wu, Xiao, Codella, Liu, Dai, Yuan, Zhang: CvT: Introducing Convolutions to Vision Transformers, 2021 (arXiv 2103.15808),
section 3.2.

Normalisation is that of evaluation, a scale and a shift for each channel. The scale of the scores is that of the
authors' code: by the whole width, not by a head's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "dense, cross"


def _projected(image: Tensor, conv: Tensor, scale: Tensor, shift: Tensor, stride: int) -> Tensor:
    x = F.conv2d(image, conv, stride=stride, padding=1, groups=image.shape[1])
    return (x * scale[:, None, None] + shift[:, None, None]).flatten(2).transpose(1, 2)


@attnc.compile
def convolutional(
    x: Tensor, convs: tuple[Tensor, ...], scales: Tensor, shifts: Tensor, weights: Tensor, heads: int, height: int
) -> Tensor:
    """A class token and an image of ``height`` rows, (B, 1 + N, C)."""
    b, n, c = x.shape
    cls, image = x[:, :1], x[:, 1:].transpose(1, 2).reshape(b, c, height, (n - 1) // height)
    heads_of = []
    for which, stride in enumerate((1, 2, 2)):
        tokens = _projected(image, convs[which], scales[which], shifts[which], stride)
        tokens = F.linear(torch.cat((cls, tokens), dim=1), weights[which])
        heads_of.append(tokens.unflatten(-1, (heads, c // heads)).transpose(1, 2))
    q, k, v = heads_of
    attn = F.softmax(torch.einsum("bhlk,bhtk->bhlt", q, k) * c**-0.5, dim=-1)
    return torch.einsum("bhlt,bhtv->bhlv", attn, v).transpose(1, 2).flatten(2)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # CvT-13 at 384 pixels, last stage
    b, height, width, c, heads = (2, 5, 3, 12, 2) if small else (4, 24, 24, 384, 6)
    x = torch.randn(b, 1 + height * width, c)
    convs = tuple(torch.randn(c, 1, 3, 3) / 3 for _ in range(3))
    weights = torch.randn(3, c, c) / c**0.5
    return {"convolutional": (x, convs, torch.rand(3, c), torch.randn(3, c), weights, heads, height)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
