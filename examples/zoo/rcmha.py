"""RCMHA: Transformer-XL's relative attention on queries, keys and values that a depthwise convolution has mixed.

Sugiharto, Aradea, Mubarok: RCMHA: Relative Convolutional Multi-Head Attention for Natural Language Modelling, 2023
(arXiv 2308.03429), section 3.  The convolution follows the projection, causal, with three taps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal"


def _convolved(x: Tensor, weight: Tensor) -> Tensor:
    """``x`` (B, N, H * D) along the tokens before."""
    x = F.pad(x.transpose(1, 2), (weight.shape[-1] - 1, 0))
    return F.conv1d(x, weight, groups=weight.shape[0]).transpose(1, 2)


def _rel_shift(x: Tensor) -> Tensor:
    b, h, n, m = x.shape
    return F.pad(x, (1, 0)).view(b, h, m + 1, n)[:, :, 1:].view_as(x)


@attnc.compile
def rcmha(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, conv: Tensor, r: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """``x`` (B, N, C); ``conv`` (3, C, 1, taps); ``r`` (N, H, D), farthest distance first; ``u``, ``w`` (H, D)."""
    h, d = u.shape
    q, k, v = (_convolved(x @ a, c).unflatten(-1, (h, d)) for a, c in zip((w_q, w_k, w_v), conv, strict=True))
    content = torch.einsum("bihd,bjhd->bhij", q + u, k)
    position = _rel_shift(torch.einsum("bihd,jhd->bhij", q + w, r))
    scores = (content + position) / d**0.5
    n = x.shape[1]
    future = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
    return torch.einsum("bhij,bjhd->bihd", scores.masked_fill(future, float("-inf")).softmax(-1), v).flatten(2)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, n, h, d = (2, 23, 3, 8) if small else (4, 512, 8, 64)
    x, weights = torch.randn(b, n, h * d), torch.randn(3, h * d, h * d) / (h * d) ** 0.5
    return {"rcmha": (x, *weights, torch.randn(3, h * d, 1, 3) / 2, torch.randn(n, h, d), *torch.randn(2, h, d))}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
