"""Gemma 2: scores capped by a tanh; layers of a sliding window take turns with layers that see all before.

Gemma Team, Google DeepMind: Gemma 2: Improving Open Language Models at a Practical Size, 2024 (arXiv 2408.00118),
section 2.  Grouped queries: two query heads share a key and a value head.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal, windowed"

CAP = 50.0


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    scores = torch.tanh(scores / CAP) * CAP
    weights = torch.softmax(scores + mask, dim=-1)
    return torch.matmul(weights, v)


def _causal_mask(n: int, x: Tensor) -> Tensor:
    return torch.triu(torch.full((n, n), -2.3819763e38, device=x.device), diagonal=1)


@attnc.compile
def global_layer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attend(q, k, v, _causal_mask(q.shape[2], q))


@attnc.compile
def local_layer(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    n = q.shape[2]
    near = torch.triu(torch.ones(n, n, dtype=torch.bool, device=q.device), diagonal=1 - window)
    return _attend(q, k, v, torch.where(near, _causal_mask(n, q), -2.3819763e38))


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # Gemma-2-2B; eager holds several N x N matrices for each head, so 2048 tokens of the published 8192, window / 4
    b, h, n, d, window = (2, 4, 43, 16, 11) if small else (1, 8, 2048, 256, 1024)
    q, (k, v) = 4 * torch.randn(b, h, n, d), torch.randn(2, b, h // 2, n, d)
    return {"global_layer": (q, k, v), "local_layer": (q, k, v, window)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
