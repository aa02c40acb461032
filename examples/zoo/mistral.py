"""Mistral 7B: causal attention in a sliding window, with a rolling buffer of keys and values while decoding.

Jiang, Sablayrolles, Mensch, et al.: Mistral 7B, 2023 (arXiv 2310.06825), section 2.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal, windowed"


def _repeat_kv(x: Tensor, times: int) -> Tensor:
    b, h, n, d = x.shape
    return x[:, :, None].expand(b, h, times, n, d).reshape(b, h * times, n, d)


@attnc.compile
def prefill(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    n, groups = q.shape[2], q.shape[1] // k.shape[1]
    position = torch.arange(n, device=q.device)
    distance = position[:, None] - position[None, :]
    scores = q @ _repeat_kv(k, groups).transpose(2, 3) / q.shape[-1] ** 0.5
    scores = scores.masked_fill((distance < 0) | (distance >= window), float("-inf"))
    return torch.softmax(scores, dim=-1) @ _repeat_kv(v, groups)


@attnc.compile
def decode(q: Tensor, k: Tensor, v: Tensor, position: Tensor) -> Tensor:
    """One token for each sequence at ``position``; slot ``s`` of the buffer holds the last token ``t % slots == s``."""
    slots, groups = k.shape[2], q.shape[1] // k.shape[1]
    written = torch.arange(slots, device=q.device)[None, :] <= position[:, None]  # until the buffer is full
    scores = q @ _repeat_kv(k, groups).transpose(2, 3) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~written[:, None, None], float("-inf"))
    return torch.softmax(scores, dim=-1) @ _repeat_kv(v, groups)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, groups, n, d, window = (
        (2, 4, 2, 47, 16, 13) if small else (1, 32, 4, 2048, 128, 512)
    )  # a quarter of 8192, 4096
    q, (k, v) = torch.randn(b, h, n, d), torch.randn(2, b, h // groups, n, d)
    batch = 3 if small else 8
    cache = torch.randn(2, batch, h // groups, window if small else 4096, d)
    position = torch.arange(batch) * window // 2
    return {"prefill": (q, k, v, window), "decode": (torch.randn(batch, h, 1, d), *cache, position)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
