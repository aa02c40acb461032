"""Prefix language model: every token sees the prefix of its sequence, and beyond it what came before.

Raffel, Shazeer, Roberts, et al.: Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer,
2019 (arXiv 1910.10683), section 3.2.1; ``spans`` is PaliGemma's use of it, for images inside text: Beyer, Steiner,
Pinto, et al., 2024 (arXiv 2407.07726), section 3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal, block, data-dependent"


@attnc.compile
def prefix(q: Tensor, k: Tensor, v: Tensor, length: Tensor) -> Tensor:
    """``length`` (B,) of the prefixes."""
    n = q.shape[2]
    i, j = torch.arange(n, device=q.device)[:, None], torch.arange(n, device=q.device)[None, :]
    live = (j < length[:, None, None, None]) | (j <= i)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=live)


@attnc.compile
def spans(q: Tensor, k: Tensor, v: Tensor, span: Tensor) -> Tensor:
    """``span`` (B, N): 0 for text, otherwise the number of the image that a token belongs to."""
    causal = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
    same = (span[:, :, None] == span[:, None, :]) & (span[:, :, None] > 0)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return torch.where((causal | same)[:, None], scores, -torch.inf).softmax(-1) @ v


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d = (2, 3, 51, 8) if small else (2, 8, 1024, 64)
    q, k, v = torch.randn(3, b, h, n, d)
    length = torch.tensor([n // 3, n // 2])
    image = torch.arange(n) // (n // 5)
    span = torch.stack([image % 2 * image, (image == 1).long()])
    return {"prefix": (q, k, v, length), "spans": (q, k, v, span)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
