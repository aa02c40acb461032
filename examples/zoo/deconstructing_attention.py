"""Deconstructing Attention: causal attention without one of its parts: the exponential, the query, or the input.

Xue, Moosavi, Aletras: Deconstructing Attention: Investigating Design Principles for Effective Language Modeling, 2025
(arXiv 2510.11602), section 3.  ``fixed_scores`` is RndEmbQK, FixedSeqQK and StaticEmbQK: what differs is where its
queries and keys come from.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal"


def _causal(scores: Tensor) -> Tensor:
    return torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()


@attnc.compile
def approximate(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The exponential as its Taylor polynomial."""
    t = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = (1 + t + t**2 / 2).masked_fill(~_causal(t), 0.0)
    return (weights / weights.sum(-1, keepdim=True)) @ v


@attnc.compile
def non_approximate(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A score of the key's token alone."""
    score = (F.silu(q) * k).sum(-1) / q.shape[-1] ** 0.5
    scores = score[:, :, None, :].expand(-1, -1, q.shape[2], -1)
    return scores.masked_fill(~_causal(scores), float("-inf")).softmax(-1) @ v


@attnc.compile
def fixed_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries and keys without a batch, the same for every input."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return scores.masked_fill(~_causal(scores), float("-inf")).softmax(-1) @ v


@attnc.compile
def uniform(v: Tensor) -> Tensor:
    """No scores at all: the mean of what came before."""
    scores = torch.zeros(v.shape[-2], v.shape[-2], device=v.device)
    return scores.masked_fill(~_causal(scores), float("-inf")).softmax(-1) @ v


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d = (2, 3, 39, 8) if small else (1, 8, 2048, 64)
    q, k, v = torch.randn(3, b, h, n, d)
    inputs = {"approximate": (q, k, v), "non_approximate": (q, k, v), "fixed_scores": (q[0], k[0], v)}
    return inputs | {"uniform": (v,)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
