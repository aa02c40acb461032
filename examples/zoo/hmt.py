"""HMT: causal attention inside a segment that begins and ends with what one query recalls from a memory of segments.

He, Cao, Qin, Prakriya, Sun, Cong: HMT: Hierarchical Memory Transformer for Efficient Long Context Language
Processing, 2024 (arXiv 2405.06067), section 3.  One head, as wide as the model, reads the memory; its values are the
memory itself.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "cross, hierarchical, causal"
HEADS, SEGMENT, SENSORY, MEMORY = 16, 1022, 32, 300


def _recalled(summary: Tensor, memory: Tensor, w_q: Tensor, w_k: Tensor) -> Tensor:
    scores = torch.bmm(summary @ w_q, (memory @ w_k).transpose(1, 2)) / math.sqrt(w_q.shape[-1])
    return torch.bmm(F.softmax(scores, dim=-1), memory)


@attnc.compile
def recall(summary: Tensor, memory: Tensor, w_q: Tensor, w_k: Tensor) -> Tensor:
    """The vector that the memory answers a segment's summary with."""
    return _recalled(summary, memory, w_q, w_k)


@attnc.compile
def segment(
    x: Tensor, before: Tensor, summary: Tensor, memory: Tensor, w_q: Tensor, w_k: Tensor, w_qkv: Tensor, heads: int
) -> Tensor:
    """Recall, then one layer over [recalled | end of the segment before | segment | recalled]."""
    prompt = _recalled(summary, memory, w_q, w_k)
    tokens = torch.cat([prompt, before, x, prompt], dim=1)
    b, n, width = tokens.shape
    q, k, v = (t.view(b, n, heads, -1).transpose(1, 2) for t in (tokens @ w_qkv).chunk(3, dim=-1))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return out.transpose(1, 2).reshape(b, n, width)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    b, n, width, heads, sensory, rows = (2, 37, 12, 2, 5, 11) if small else (2, SEGMENT, 1024, HEADS, SENSORY, MEMORY)
    random = torch.Generator().manual_seed(0)
    x, before, summary, memory = (torch.randn(b, m, width, generator=random) for m in (n, sensory, 1, rows))
    w_q, w_k, w_qkv = (torch.randn(width, m * width, generator=random) * width**-0.5 for m in (1, 1, 3))
    return {
        "recall": (summary, memory, w_q, w_k),
        "segment": (x, before, summary, memory, w_q, w_k, w_qkv, heads),
    }


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
