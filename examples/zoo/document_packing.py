"""Packed documents: causal attention in a sequence of documents laid end to end, none of which sees another.

Krell, Kosec, Perez, Fitzgibbon: Efficient Sequence Packing without Cross-contamination, 2021 (arXiv 2107.02027),
section 3.4; ``offsets`` is the form of Dao, 2022 (arXiv 2205.14135): where each document begins, and the end.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "block, causal, data-dependent"


@attnc.compile
def by_offsets(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> Tensor:
    """``q``, ``k``, ``v`` (tokens, H, D)."""
    token = torch.arange(q.shape[0], device=q.device)
    document = torch.searchsorted(offsets, token, right=True)
    live = (document[:, None] == document[None, :]) & (token[None, :] <= token[:, None])
    scores = torch.einsum("ihd,jhd->hij", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(~live, float("-inf")).softmax(-1), v)


@attnc.compile
def by_lengths(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """Every token sees its document, before and after."""
    number = torch.arange(lengths.shape[0], device=q.device)
    document = torch.repeat_interleave(number, lengths, output_size=q.shape[0])
    other = document.unsqueeze(1) != document.unsqueeze(0)
    mask = torch.zeros(other.shape, device=q.device).masked_fill(other, float("-inf"))
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    lengths = torch.tensor([7, 1, 20, 31, 2] if small else [300, 64, 900, 17, 511, 256])
    h, d, n = (2, 8, int(lengths.sum())) if small else (16, 64, int(lengths.sum()))
    q, k, v = torch.randn(3, n, h, d)
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    return {"by_offsets": (q, k, v, offsets), "by_lengths": (q, k, v, lengths)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
