"""Selective Self-Attention: causal attention with a temperature for each query and value, from token and position.

Zhang, Chang, Li, Durmus, Oymak: Selective Attention: Enhancing Transformer through Principled Context Control, 2024
(arXiv 2411.12892), section 3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal"


def _temperature(x: Tensor, w1: Tensor, w2: Tensor, beta: Tensor) -> Tensor:
    """``(batch, tokens, 1)``: what the token says, and a part that grows with the logarithm of the position."""
    token = torch.tanh(F.gelu(x @ w1) @ w2)
    position = torch.log(torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype))
    return token + 1 + torch.exp(-torch.exp(beta)) * position[:, None]


@attnc.compile
def selective_self_attention(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor, q1: Tensor, q2: Tensor, v1: Tensor, v2: Tensor, beta: Tensor
) -> Tensor:
    query_temp = _temperature(x, q1, q2, beta)[:, None]  # (B, 1, N, 1), shared by the heads
    value_temp = _temperature(x, v1, v2, beta)[:, None]
    scores = query_temp * (q @ k.transpose(-2, -1)) / q.size(-1) ** 0.5
    causal = torch.ones(q.size(-2), k.size(-2), dtype=torch.bool, device=q.device).tril()
    weights = scores.masked_fill(~causal, float("-inf")).softmax(dim=-1)
    return weights @ (value_temp * v)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d, c, r = (2, 3, 37, 8, 12, 5) if small else (1, 12, 2048, 64, 768, 16)  # Pythia-160M
    q, k, v = torch.randn(3, b, h, n, d)
    x, hidden, out = torch.randn(b, n, c), torch.randn(2, c, r) / c**0.5, torch.randn(2, r, 1)
    return {"selective_self_attention": (q, k, v, x, hidden[0], out[0], hidden[1], out[1], torch.tensor(1.5))}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
