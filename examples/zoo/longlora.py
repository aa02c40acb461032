"""LongLoRA: causal attention in groups, which half of the heads shift by half a group (shifted sparse attention).

Chen, Qian, Tang, Lai, Liu, Han, Jia: LongLoRA: Efficient Fine-tuning of Long-Context Large Language Models, 2023
(arXiv 2309.12307), section 3.2 and algorithm 1.  ``shifted`` rolls tokens, so the last shifted group holds the end and
the beginning of the text; ``segments`` is the form for variable lengths, where these two are groups of their own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "block, causal"


def _shift(x: Tensor, group: int) -> Tensor:
    b, heads, n, d = x.shape
    x = x.clone()
    x[:, heads // 2 :] = x[:, heads // 2 :].roll(-group // 2, dims=2)
    return x.transpose(1, 2).reshape(b * (n // group), group, heads, d).transpose(1, 2)


@attnc.compile
def shifted(q: Tensor, k: Tensor, v: Tensor, group: int) -> Tensor:
    b, heads, n, d = q.shape
    q, k, v = _shift(q, group), _shift(k, group), _shift(v, group)
    scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(d)
    scores = scores + torch.full((group, group), float("-inf")).triu(1)
    out = torch.matmul(torch.softmax(scores, dim=-1), v).transpose(1, 2).reshape(b, n, heads, d)
    return torch.cat([out[:, :, : heads // 2], out[:, :, heads // 2 :].roll(group // 2, dims=1)], dim=2)


@attnc.compile
def segments(q: Tensor, k: Tensor, v: Tensor, group: int) -> Tensor:
    heads, n, d = q.shape[1:]
    token, head = torch.arange(n), torch.arange(heads)
    offset = torch.where(head < heads // 2, 0, group // 2)
    segment = (token + offset[:, None]) // group
    seen = (segment[:, :, None] == segment[:, None, :]) & (token[None, :] <= token[:, None])
    scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(d)
    return torch.matmul(torch.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1), v)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    # Llama-2 7B at 8192 tokens, groups of a quarter; 4 of its 32 heads, so that the masks of eager fit
    heads, n, d, group = (4, 60, 5, 12) if small else (4, 8192, 128, 2048)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    return {"shifted": (q, k, v, group), "segments": (q, k, v, group)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
