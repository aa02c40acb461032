"""KIVI: decoding over a cache of 2-bit numbers, scaled by channel or token, with the latest tokens in full precision.

Liu, Yuan, Jin, et al.: KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache, 2024 (arXiv 2402.02750),
section 3.
Codes take a byte each here.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "dense"


def _decoded(codes: Tensor, scale: Tensor, zero: Tensor, group: int) -> Tensor:
    """Groups of codes along dimension 2, each with a scale and a zero of its own."""
    b, h, n, d = codes.shape
    grouped = codes.view(b, h, n // group, group, d).float()
    return (grouped * scale[:, :, :, None] + zero[:, :, :, None]).view(b, h, n, d)


@attnc.compile
def kivi(
    q: Tensor,
    k: Tensor,
    k_scale: Tensor,
    k_zero: Tensor,
    v: Tensor,
    v_scale: Tensor,
    v_zero: Tensor,
    k_new: Tensor,
    v_new: Tensor,
) -> Tensor:
    """Codes (B, H, M, D); ``k_scale`` (B, H, M / 32, D) and ``v_scale`` (B, H, M, 1); new tokens (B, H, R, D)."""
    keys = _decoded(k, k_scale, k_zero, 32)
    values = v.float() * v_scale + v_zero
    scores = torch.cat([q @ keys.mT, q @ k_new.mT], dim=-1) / q.shape[-1] ** 0.5
    weights = scores.softmax(dim=-1)
    m = k.shape[2]
    return weights[..., :m] @ values + weights[..., m:] @ v_new


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, m, r, d = (2, 3, 64, 5, 8) if small else (4, 32, 4096, 128, 128)
    k, v = torch.randint(0, 4, (2, b, h, m, d), dtype=torch.uint8)
    k_scale, k_zero = torch.rand(2, b, h, m // 32, d) - 0.5
    v_scale, v_zero = torch.rand(2, b, h, m, 1) - 0.5
    new = torch.randn(2, b, h, r, d)
    return {"kivi": (torch.randn(b, h, 1, d), k, k_scale, k_zero, v, v_scale, v_zero, *new)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
