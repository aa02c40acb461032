"""Synthesizer: scores do not compare tokens; they are parameters (random), or each token tells its own (dense).

Tay, Bahri, Metzler, Juan, Zhao, Zheng: Synthesizer: Rethinking Self-Attention in Transformer Models, 2020
(arXiv 2005.00743), section 3.  Scores of the longest text are cut to the text at hand.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "dense"
RANK = 8


@attnc.compile
def random(v: Tensor, r: Tensor) -> Tensor:
    n = v.shape[2]
    return F.softmax(r[:, :n, :n], dim=-1) @ v


@attnc.compile
def factorised(v: Tensor, r1: Tensor, r2: Tensor) -> Tensor:
    n = v.shape[2]
    return F.softmax(r1[:, :n] @ r2[:, :, :n], dim=-1) @ v


@attnc.compile
def dense(x: Tensor, v: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    n = x.shape[1]
    hidden = F.relu(torch.einsum("bnc,hcd->bhnd", x, w1) + b1[:, None])
    scores = torch.einsum("bhnd,hdl->bhnl", hidden, w2) + b2[:, None]
    return torch.matmul(F.softmax(scores[..., :n], dim=-1), v)


@attnc.compile
def mixture(q: Tensor, k: Tensor, v: Tensor, r: Tensor) -> Tensor:
    """Random scores and compared tokens, added."""
    n = q.shape[2]
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + r[:, :n, :n]
    return F.softmax(scores, dim=-1) @ v


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    heads, n, longest, d, width, rank = (2, 53, 60, 5, 12, 3) if small else (8, 2048, 2048, 64, 512, RANK)
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    q, k, v = (tensor(1, heads, n, d) for _ in range(3))
    w1, b1 = tensor(heads, width, d) * width**-0.5, tensor(heads, d)
    w2, b2 = tensor(heads, d, longest) * d**-0.5, tensor(heads, longest)
    return {
        "random": (v, tensor(heads, longest, longest)),
        "factorised": (v, tensor(heads, longest, rank), tensor(heads, rank, longest)),
        "dense": (tensor(1, n, width), v, w1, b1, w2, b2),
        "mixture": (q, k, v, tensor(heads, longest, longest)),
    }


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
