"""GPT-OSS: causal attention, every other layer in a window, where a learned logit takes part in the softmax.

OpenAI: gpt-oss-120b & gpt-oss-20b Model Card, 2025 (arXiv 2508.10925), section 2.2; the sink follows Xiao, Tian, Chen,
Han, Lewis, 2023 (arXiv 2309.17453).
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal, windowed"


def _sdpa(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, window: int) -> Tensor:
    """``q`` (N, key heads, groups, D); ``k``, ``v`` (N, key heads, D)."""
    n, heads, groups, d = q.shape
    k, v = (x[:, :, None, :].expand(-1, -1, groups, -1) for x in (k, v))
    sink = sinks.reshape(heads, groups, 1, 1).expand(-1, -1, n, -1)
    mask = torch.triu(q.new_full((n, n), -float("inf")), diagonal=1)
    if window > 0:
        mask = mask + torch.tril(mask.new_full((n, n), -float("inf")), diagonal=-window)
    scores = torch.einsum("qhmd,khmd->hmqk", q, k) * d**-0.5
    scores = torch.cat([scores + mask[None, None], sink], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., :-1]
    return torch.einsum("hmqk,khmd->qhmd", weights, v).reshape(n, heads * groups * d)


@attnc.compile
def full_layer(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> Tensor:
    return _sdpa(q, k, v, sinks, 0)


@attnc.compile
def window_layer(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, window: int) -> Tensor:
    return _sdpa(q, k, v, sinks, window)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    n, heads, groups, d, window = (31, 2, 3, 8, 13) if small else (1024, 8, 8, 64, 128)
    q, (k, v) = torch.randn(n, heads, groups, d), torch.randn(2, n, heads, d)
    inputs = (q, k, v, torch.randn(heads * groups))
    return {"full_layer": inputs, "window_layer": (*inputs, window)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
