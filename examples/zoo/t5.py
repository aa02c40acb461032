"""T5: attention without a scale, with a learned score for each head and logarithmic bucket of distances.

Raffel, Shazeer, Roberts, et al.: Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer,
2019 (arXiv 1910.10683), section 2.1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "dense"


def _bucket(relative: Tensor, bidirectional: bool, buckets: int = 32, farthest: int = 128) -> Tensor:
    """Half of the buckets are exact, the rest grow logarithmically up to ``farthest``."""
    bucket = torch.zeros_like(relative)
    if bidirectional:
        buckets //= 2
        bucket = bucket + (relative > 0).long() * buckets
        distance = relative.abs()
    else:
        distance = -torch.min(relative, torch.zeros_like(relative))
    exact = buckets // 2
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(farthest / exact)
    large = exact + (ratio * (buckets - exact)).long()
    large = torch.min(large, torch.full_like(large, buckets - 1))
    return bucket + torch.where(distance < exact, distance, large)


def _bias(table: Tensor, n: int, bidirectional: bool) -> Tensor:
    position = torch.arange(n, device=table.device)
    relative = position[None, :] - position[:, None]
    return table[_bucket(relative, bidirectional)].permute(2, 0, 1)[None]


@attnc.compile
def encoder(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(3, 2)) + _bias(table, q.shape[2], True)
    return torch.matmul(torch.softmax(scores.float(), dim=-1).type_as(scores), v)


@attnc.compile
def decoder(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    n = q.shape[2]
    mask = torch.full((n, n), torch.finfo(q.dtype).min, device=q.device).triu(1)
    scores = torch.matmul(q, k.transpose(3, 2)) + (_bias(table, n, False) + mask)
    return torch.matmul(torch.softmax(scores.float(), dim=-1).type_as(scores), v)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d = (2, 3, 53, 8) if small else (4, 12, 512, 64)  # T5-base
    q, k, v = torch.randn(3, b, h, n, d)
    inputs = (q / d**0.5, k, v, torch.randn(32, h))
    return {"encoder": inputs, "decoder": inputs}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
