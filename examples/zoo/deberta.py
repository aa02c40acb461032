"""DeBERTa: content to content, content to position and position to content, each with an inner product.

He, Liu, Gao, Chen: DeBERTa: Decoding-enhanced BERT with Disentangled Attention, 2020 (arXiv 2006.03654), section 3.1
and algorithm 1.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "dense"


def _delta(n: int, k: int, like: Tensor) -> Tensor:
    """Equation 3: the relative distance from i to j, as one of 2 k rows."""
    position = torch.arange(n, device=like.device)
    return (position[:, None] - position[None, :] + k).clamp(0, 2 * k - 1)


@attnc.compile
def deberta(q: Tensor, k: Tensor, v: Tensor, q_r: Tensor, k_r: Tensor, mask: Tensor) -> Tensor:
    """``q``, ``k``, ``v`` (B, H, N, D); projected positions ``q_r``, ``k_r`` (H, 2 k, D); ``mask`` (B, N) of tokens."""
    b, h, n, d = q.shape
    delta = _delta(n, k_r.shape[-2] // 2, q).expand(b, h, n, n)
    content = q @ k.transpose(-1, -2)
    to_position = torch.gather(q @ k_r.transpose(-1, -2), -1, delta)
    from_position = torch.gather(k @ q_r.transpose(-1, -2), -1, delta).transpose(-1, -2)
    scores = (content + to_position + from_position) / (3 * d) ** 0.5
    return torch.softmax(scores.masked_fill(~mask[:, None, None, :], float("-inf")), dim=-1) @ v


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d, k = (2, 3, 31, 8, 6) if small else (4, 12, 512, 64, 256)  # base
    positions = torch.randn(2, h, 2 * k, d) / d**0.25
    mask = torch.arange(n)[None, :] < torch.linspace(n // 2, n, b)[:, None]
    return {"deberta": (*torch.randn(3, b, h, n, d) / d**0.25, *positions, mask)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
