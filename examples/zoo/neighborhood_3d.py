"""Neighborhood Attention of videos: a window in time and space around every token, which may be causal in time.

Hassani, Hwu, Shi: Faster Neighborhood Attention: Reducing the O(n^2) Cost of Self Attention at the Threadblock Level,
2024 (arXiv 2403.04690), section 3; the window of Hassani, Walton, Li, Li, Shi, 2022 (arXiv 2204.07143).

In space the window is pushed inwards at borders; in time it is cut at the start.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "windowed, causal"


def _axis(n: int, kernel: int, causal: bool) -> Tensor:
    """Who sees whom along one axis, (n, n)."""
    i, j = torch.arange(n).unsqueeze(1), torch.arange(n).unsqueeze(0)
    if causal:
        return (j <= i) & (i - j < kernel)
    start = (i - kernel // 2).clamp(0, n - kernel)
    return (j >= start) & (j < start + kernel)


@attnc.compile
def video(q: Tensor, k: Tensor, v: Tensor, kernel: tuple[int, int, int], causal: bool) -> Tensor:
    b, frames, height, width, heads, d = q.shape
    t, y, x = (_axis(n, w, c) for n, w, c in zip((frames, height, width), kernel, (causal, False, False), strict=True))
    mask = t[:, None, None, :, None, None] & y[None, :, None, None, :, None] & x[None, None, :, None, None, :]
    n = frames * height * width
    q, k, v = (s.reshape(b, n, heads, d).transpose(1, 2) for s in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.reshape(n, n))
    return out.transpose(1, 2).reshape(b, frames, height, width, heads, d)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # a clip of 8 frames in tokens of 28 x 28; the mask of more does not fit
    shape, kernel = ((1, 3, 5, 6, 2, 6), (2, 3, 4)) if small else ((1, 8, 28, 28, 4, 32), (4, 7, 7))
    q, k, v = (torch.randn(shape) for _ in range(3))
    return {"video": (q, k, v, kernel, True)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
