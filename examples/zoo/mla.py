"""Multi-head latent attention: keys and values are projections of one small latent; a rotary part joins the score.

DeepSeek-AI: DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model, 2024 (arXiv
2405.04434), section 2.1.  ``expanded`` is the form of training and prefill; ``absorbed`` that of decoding, with the
latents as keys and values.  Rotation happens before, as for a cache.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal"


@attnc.compile
def expanded(q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, w_uk: Tensor, w_uv: Tensor) -> Tensor:
    """``q_nope`` (B, H, N, d) and ``q_rope`` (B, H, N, r); ``latent`` (B, M, c) and ``k_rope`` (B, M, r)."""
    n, m = q_nope.shape[2], latent.shape[1]
    k_nope = torch.einsum("bmc,hdc->bhmd", latent, w_uk)
    v = torch.einsum("bmc,hdc->bhmd", latent, w_uv)
    q = torch.cat([q_nope, q_rope], dim=-1)
    k = torch.cat([k_nope, k_rope[:, None].expand(-1, q.shape[1], -1, -1)], dim=-1)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    causal = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n)
    return scores.masked_fill(~causal, float("-inf")).softmax(dim=-1) @ v


@attnc.compile
def absorbed(q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, w_uk: Tensor, w_uv: Tensor) -> Tensor:
    """The same function: queries go to the latents, and what they find there is projected."""
    n, m = q_nope.shape[2], latent.shape[1]
    q_latent = torch.einsum("bhnd,hdc->bhnc", q_nope, w_uk)
    scores = torch.einsum("bhnc,bmc->bhnm", q_latent, latent) + torch.einsum("bhnr,bmr->bhnm", q_rope, k_rope)
    scores = scores * (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5
    causal = torch.ones(n, m, dtype=torch.bool, device=scores.device).tril(m - n)
    weights = scores.masked_fill(~causal, float("-inf")).softmax(dim=-1)
    out = torch.einsum("bhnm,bmc->bhnc", weights, latent)
    return torch.einsum("bhnc,hdc->bhnd", out, w_uv)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)

    def inputs(n: int, m: int) -> tuple[Any, ...]:
        b, h, c, d, r = (2, 3, 13, 8, 4) if small else (1, 128, 512, 128, 64)  # DeepSeek-V3
        q_nope, q_rope = torch.randn(b, h, n, d), torch.randn(b, h, n, r)
        return q_nope, q_rope, torch.randn(b, m, c), torch.randn(b, m, r), *torch.randn(2, h, d, c) / c**0.5

    return {
        "expanded": inputs(*(29, 29) if small else (1024, 1024)),
        "absorbed": inputs(*(3, 31) if small else (1, 4096)),
    }


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
