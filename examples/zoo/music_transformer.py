"""Music Transformer: causal attention to how long ago, whose products with queries are skewed under their keys.

Huang, Vaswani, Uszkoreit, Shazeer, Simon, Hawthorne, Dai, Hoffman, Dinculescu, Eck: Music Transformer: Generating Music
with Long-Term Structure, 2018 (arXiv 1809.04281), section 3.4.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal"


def _skew(x: Tensor) -> Tensor:
    """From columns that count distances, farthest first, to columns that count keys."""
    b, h, n, _ = x.shape
    return F.pad(x, (1, 0)).view(b, h, n + 1, n)[:, :, 1:]


@attnc.compile
def music_transformer(q: Tensor, k: Tensor, v: Tensor, e: Tensor) -> Tensor:
    """``q``, ``k``, ``v`` (B, H, N, D); ``e`` (H, N, D) are learned, farthest distance first."""
    n = q.shape[2]
    scores = (q @ k.transpose(2, 3) + _skew(q @ e.transpose(1, 2))) / q.shape[-1] ** 0.5
    future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
    return torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1) @ v


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d = (2, 3, 21, 8) if small else (2, 8, 2048, 64)  # excerpts of 2048 events
    return {"music_transformer": (*torch.randn(3, b, h, n, d), torch.randn(h, n, d))}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
