"""Compressed convolutional attention with grouped queries: queries and keys mixed by causal convolutions.

Figliolia, Alonso, Iyer, Anthony, Millidge: Compressed Convolutional Attention: Efficient Attention in a Compressed
Latent Space, 2025 (arXiv 2510.04476), section 3.  Rotary positions are left out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal"


def _causal_conv(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    return F.conv1d(F.pad(x, (weight.shape[-1] - 1, 0)), weight, groups=groups)


@attnc.compile
def ccgqa(
    x: Tensor, w_qk: Tensor, conv: Tensor, mix: Tensor, beta: Tensor, w_v: Tensor, w_shift: Tensor, w_o: Tensor, h: int
) -> Tensor:
    """``x`` (B, N, E); ``beta`` (key heads,); ``h`` query heads."""
    hk = beta.shape[0]
    b, n, _ = x.shape
    d = w_qk.shape[1] // (h + hk)
    latent = x @ w_qk
    mixed = _causal_conv(latent.transpose(1, 2), conv, latent.shape[-1])
    mixed = _causal_conv(mixed, mix, h + hk).transpose(1, 2)
    q0, k0 = latent[..., : h * d].view(b, n, hk, h // hk, d), latent[..., h * d :].view(b, n, hk, 1, d)
    mean = (q0 + k0) / 2
    q = F.normalize(mixed[..., : h * d].view(b, n, hk, h // hk, d) + mean, dim=-1) * d**0.5
    k = F.normalize(mixed[..., h * d :].view(b, n, hk, d) + mean.mean(3), dim=-1) * d**0.5 * beta.exp()[:, None]
    before = F.pad(x, (0, 0, 1, 0))[:, :-1]  # the token before each
    v = torch.cat([(x @ w_v).view(b, n, hk, -1), (before @ w_shift).view(b, n, hk, -1)], dim=-1)
    q, k, v = q.reshape(b, n, h, d).transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out.transpose(1, 2).flatten(2) @ w_o


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, n, e, h, hk, d = (2, 27, 48, 4, 2, 8) if small else (1, 2048, 2048, 16, 4, 64)
    w_qk, w_v = torch.randn(e, (h + hk) * d) / e**0.5, torch.randn(2, e, hk * d // 2) / e**0.5
    conv, mix = torch.randn((h + hk) * d, 1, 4) / 2, torch.randn((h + hk) * d, d, 4) / (4 * d) ** 0.5
    return {
        "ccgqa": (torch.randn(b, n, e), w_qk, conv, mix, torch.randn(hk) / 8, *w_v, torch.randn(h * d, e) / e**0.5, h)
    }


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
