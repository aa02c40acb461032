"""H-Net: the outer layers, over bytes, see a causal window; the inner ones see all chunks before them.

Hwang, Wang, Gu: Dynamic Chunking for End-to-End Hierarchical Sequence Modeling, 2025 (arXiv 2507.07955), section 2.
These are the attention layers of the outer stages.  Which bytes begin a chunk is decided by data; it is not here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "windowed, causal"
HEADS, WINDOW = 16, 1023  # a byte and the 1023 before it


def _rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the first features only; the others pass."""
    turned, passed = x[..., : 2 * cos.shape[-1]], x[..., 2 * cos.shape[-1] :]
    a, b = turned.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, passed], dim=-1)


@attnc.compile
def window_layer(x: Tensor, w_qkv: Tensor, w_out: Tensor, cos: Tensor, sin: Tensor, heads: int, window: int) -> Tensor:
    n = x.shape[1]
    qkv = F.linear(x, w_qkv).unflatten(-1, (3, heads, -1))
    q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
    q, k = _rope(q, cos[:n], sin[:n]), _rope(k, cos[:n], sin[:n])
    ones = torch.ones(n, n, dtype=torch.bool)
    mask = ones.tril() & ones.triu(-window)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return F.linear(out.transpose(1, 2).flatten(2), w_out)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    n, width, heads, rotary, window = (71, 24, 2, 4, 12) if small else (8192, 1024, HEADS, 32, WINDOW)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, n, width, generator=random)
    w_qkv, w_out = (torch.randn(m * width, width, generator=random) * width**-0.5 for m in (3, 1))
    angles = torch.arange(n)[:, None] / 10000 ** (torch.arange(0, rotary, 2) / rotary)
    return {"window_layer": (x, w_qkv, w_out, angles.cos(), angles.sin(), heads, window)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
