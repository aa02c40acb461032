"""Performer: positive random features approximate the exponential of softmax attention without its pairs (FAVOR+).

Choromanski, Likhosherstov, Dohan, et al.: Rethinking Attention with Performers, 2020 (arXiv 2009.14794), section 2.
The maximum that keeps exponentials small is taken over each query's features, and over all keys.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "linear"
EAGER = "there is no softmax: feature maps and the sums over keys are matrix products, which PyTorch computes"
FEATURES, EPS = 256, 1e-6


def _features(x: Tensor, projection: Tensor, over: tuple[int, ...]) -> Tensor:
    x = x * x.shape[-1] ** -0.25
    dash = torch.einsum("bhnd,md->bhnm", x, projection)
    half = (x**2).sum(dim=-1, keepdim=True) / 2
    peak = torch.amax(dash, dim=over, keepdim=True).detach()
    return projection.shape[0] ** -0.5 * (torch.exp(dash - half - peak) + EPS)


@attnc.compile
def favor(q: Tensor, k: Tensor, v: Tensor, projection: Tensor) -> Tensor:
    q, k = _features(q, projection, (-1,)), _features(k, projection, (-2, -1))
    kv = torch.einsum("bhnm,bhne->bhme", k, v)
    weight = torch.einsum("bhnm,bhm->bhn", q, k.sum(dim=2))
    return torch.einsum("bhnm,bhme->bhne", q, kv) / weight.unsqueeze(-1)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    heads, n, d, features = (2, 61, 6, 11) if small else (8, 4096, 64, FEATURES)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    blocks = [torch.linalg.qr(torch.randn(d, d, generator=random)).Q for _ in range(-(-features // d))]
    lengths = torch.randn(features, d, generator=random).norm(dim=1, keepdim=True)
    return {"favor": (q, k, v, torch.cat(blocks)[:features] * lengths)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
