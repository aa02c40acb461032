"""X-EcoMLA: multi-head latent attention grown out of grouped queries, with a rotary key shared by all heads.

Li, Rezagholizadeh, Yang, et al.: X-EcoMLA: Upcycling Pre-Trained Attention into MLA for Efficient and Extreme KV
Compression, 2025 (arXiv 2503.11132), section 3.  Projections, rotation and attention in one function.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal"


def _rope(x: Tensor, base: float = 500000.0) -> Tensor:
    """Rotate the halves of the last dimension by the position, the dimension before."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * base ** (-torch.arange(half, device=x.device) / half)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


@attnc.compile
def x_eco_mla(x: Tensor, w_q: Tensor, w_dkv: Tensor, w_uk: Tensor, w_uv: Tensor, w_kr: Tensor, w_o: Tensor) -> Tensor:
    """``w_q`` (E, H, d + r), ``w_dkv`` (E, c), ``w_uk`` and ``w_uv`` (c, H, d), ``w_kr`` (E, r), ``w_o`` (H, d, E)."""
    d, r = w_uk.shape[-1], w_kr.shape[-1]
    q_nope, q_rope = torch.einsum("bne,ehd->bhnd", x, w_q).split([d, r], dim=-1)
    latent = x @ w_dkv
    k_nope, v = (torch.einsum("bnc,chd->bhnd", latent, w) for w in (w_uk, w_uv))
    q_rope, k_rope = _rope(q_rope), _rope(x @ w_kr).unsqueeze(1)
    scores = (q_nope @ k_nope.mT + q_rope @ k_rope.mT) / (d + r) ** 0.5
    future = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device), diagonal=1)
    weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
    return torch.einsum("bhnd,hde->bne", weights @ v, w_o)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, n, e, h, c, d, r = (2, 33, 24, 3, 10, 8, 4) if small else (1, 2048, 2048, 32, 128, 64, 32)  # Llama-3.2-1B
    x, w_q = torch.randn(b, n, e), torch.randn(e, h, d + r) / e**0.5
    w_dkv, (w_uk, w_uv) = torch.randn(e, c) / e**0.5, torch.randn(2, c, h, d) / c**0.5
    return {"x_eco_mla": (x, w_q, w_dkv, w_uk, w_uv, torch.randn(e, r) / e**0.5, torch.randn(h, d, e) / (h * d) ** 0.5)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
