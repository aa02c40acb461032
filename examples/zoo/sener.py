"""SeNER: tokens see a window and the class token, which sees all; spans see those that share an end with them.

Chen, Zhang, Tang: Small Language Model Makes an Effective Long Text Extractor, 2025 (arXiv 2502.07286), sections on
arrow attention and on BiSPA.

Positions are those of DeBERTa: the score adds what the query finds in the table of relative keys, and the key in that
of relative queries. Spans that end outside the text are given values of their own, so that no row is empty.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "windowed, global, axial"


@attnc.compile
def arrow(q: Tensor, k: Tensor, v: Tensor, pos_k: Tensor, pos_q: Tensor, window: int, span: int) -> Tensor:
    """Tokens (B, H, N, d), the class token first; tables (H, 2 span, d)."""
    n, d = q.shape[-2:]
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    c2p = (i - j).clamp(-span, span - 1) + span
    p2c = (j - i).clamp(-span, span - 1) + span
    rows = (q @ pos_k.mT)[:, :, i, c2p]
    columns = (k @ pos_q.mT)[:, :, j, p2c]
    scores = (q @ k.mT + rows + columns) / math.sqrt(3 * d)
    scores = torch.where(i == 0, scores * (math.log(n) / math.log(512)), scores)
    seen = ((i - j).abs() <= window) | (j == 0) | (i == 0)
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v


@attnc.compile
def spans(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Spans (B, N, 2 W + 1, C): from a token to W before and W after it.  By equal starts, then by equal ends."""
    b, n, width, c = q.shape
    by_start = ((q @ k.mT) * c**0.5 / c).softmax(-1) @ v
    start = (torch.arange(n)[:, None] + torch.arange(width)[None, :] - width // 2) % n
    offset = width - 1 - torch.arange(width)
    q, k, v = (x[:, start, offset] for x in (q, k, v))
    by_end = ((q @ k.mT) * c**0.5 / c).softmax(-1) @ v
    return by_start, by_end


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d, window, span, width, c = (1, 2, 37, 6, 5, 4, 7, 8) if small else (1, 16, 2048, 64, 128, 256, 257, 32)
    tokens = tuple(torch.randn(b, h, n, d) for _ in range(3))
    tables = tuple(torch.randn(h, 2 * span, d) for _ in range(2))
    pairs = tuple(torch.randn(b, 5 if small else n, width, c) for _ in range(3))
    return {"arrow": (*tokens, *tables, window, span), "spans": pairs}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
