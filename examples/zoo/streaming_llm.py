"""StreamingLLM: every token sees the first tokens (attention sinks) and a window of recent ones, at any length.

Xiao, Tian, Chen, Han, Lewis: Efficient Streaming Language Models with Attention Sinks, 2023 (arXiv 2309.17453),
section 3.2.  Keys are cached before they are rotated, because positions are slots of the cache, not of the text.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "windowed, global, causal"
SINKS, RECENT = 4, 1020


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


@attnc.compile
def text(q: Tensor, k: Tensor, v: Tensor, sinks: int, recent: int) -> Tensor:
    """What each token of a whole text sees while the cache rolls over it."""
    i = torch.arange(q.shape[2])[:, None]
    j = torch.arange(k.shape[2])[None, :]
    seen = (j <= i) & ((i - j < recent) | (j < sinks))
    scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(q.shape[-1])
    return torch.matmul(torch.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1), v)


@attnc.compile
def decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """A few new tokens after the cache [sinks | recent tokens]."""
    k, v = torch.cat([k_cache, k], dim=2), torch.cat([v_cache, v], dim=2)
    slots = torch.arange(k.shape[2])
    new = slots[k_cache.shape[2] :]
    q, k = _rotate(q, cos[new], sin[new]), _rotate(k, cos[slots], sin[slots])
    scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(slots[None, :] > new[:, None], float("-inf"))
    return torch.matmul(torch.softmax(scores, dim=-1), v)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    # 8 of the 32 heads of Llama-2-7B; the published texts of four million tokens do not fit eager
    heads, n, d, new, sinks, recent = (2, 67, 6, 3, 4, 13) if small else (8, 4096, 128, 16, SINKS, RECENT)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    cache, fresh = sinks + recent, slice(n - new, n)
    angles = torch.arange(n)[:, None] / 10000 ** (torch.arange(0, d, 2) / d)
    cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))
    return {
        "text": (q, k, v, sinks, recent),
        "decode": (
            q[:, :, fresh], k[:, :, :cache], v[:, :, :cache], k[:, :, fresh], v[:, :, fresh], cos, sin,
        ),
    }  # fmt: skip


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
