"""Transformer in Transformer: the words of a patch attend to each other, then the patches, each with its words' sum.

Han, Xiao, Wu, Guo, Xu, Wang: Transformer in Transformer, 2021 (arXiv 2103.00112), section 2.2.

Layer norms and perceptrons are left out. Queries and keys share a projection; values have their own.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor
from torch.nn.functional import linear

import attnc

PATTERN = "hierarchical, block, global"


def _attention(x: Tensor, qk_weight: Tensor, v_weight: Tensor, heads: int) -> Tensor:
    b, n, c = x.shape
    q, k = linear(x, qk_weight).reshape(b, n, 2, heads, -1).permute(2, 0, 3, 1, 4)
    v = linear(x, v_weight).reshape(b, n, heads, -1).permute(0, 2, 1, 3)
    attn = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    attn = attn.softmax(dim=-1)
    return (attn @ v).transpose(1, 2).reshape(b, n, -1)


@attnc.compile
def block(
    words: Tensor,
    patches: Tensor,
    inner: tuple[Tensor, Tensor],
    fold: Tensor,
    outer: tuple[Tensor, Tensor],
    heads: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Words (B * P, w, c) and patches (B, P + 1, C), the class token first."""
    b, n, c = patches.shape
    words = words + _attention(words, *inner, heads[0])
    patches = patches.clone()
    patches[:, 1:] += linear(words.reshape(b, n - 1, -1), fold)
    return words, patches + _attention(patches, *outer, heads[1])


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # TNT-S at 224 pixels
    b, p, w, c, wide, heads = (1, 3, 5, 12, 14, (2, 2)) if small else (4, 196, 16, 24, 384, (4, 6))

    def weight(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns) / columns**0.5

    inner = weight(2 * c, c), weight(c, c)
    outer = weight(2 * wide, wide), weight(wide, wide)
    words, patches = torch.randn(b * p, w, c), torch.randn(b, p + 1, wide)
    return {"block": (words, patches, inner, weight(wide, w * c), outer, heads)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
