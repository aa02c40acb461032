"""DuoAttention: retrieval heads see all tokens before them, streaming heads only sinks and recent ones.

Xiao, Tang, Zuo, Guo, Yang, Tang, Fu, Han: DuoAttention: Efficient Long-Context LLM Inference with Retrieval and
Streaming Heads, 2024 (arXiv 2410.10819), section 3.  ``identify`` mixes both kinds by a gate for each head, which is
what is trained; ``deploy`` runs heads that were reordered so that the retrieval heads come first.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "windowed, global, causal"
SINK, RECENT = 64, 256


def _streaming(n: int, sink: int, recent: int) -> Tensor:
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]
    return (j <= i) & ((j < sink) | (j > i - recent))


@attnc.compile
def identify(q: Tensor, k: Tensor, v: Tensor, alpha: Tensor, sink: int, recent: int) -> Tensor:
    full = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    streaming = F.scaled_dot_product_attention(q, k, v, attn_mask=_streaming(q.shape[2], sink, recent))
    alpha = alpha.clamp(0, 1).view(1, -1, 1, 1)
    return alpha * full + (1 - alpha) * streaming


@attnc.compile
def deploy(q: Tensor, k: Tensor, v: Tensor, retrieval: int, sink: int, recent: int) -> Tensor:
    first, rest = slice(None, retrieval), slice(retrieval, None)
    full = F.scaled_dot_product_attention(q[:, first], k[:, first], v[:, first], is_causal=True)
    mask = _streaming(q.shape[2], sink, recent)
    streaming = F.scaled_dot_product_attention(q[:, rest], k[:, rest], v[:, rest], attn_mask=mask)
    return torch.cat([full, streaming], dim=1)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    # Llama-2-7B keeps a quarter of its 32 heads for retrieval
    heads, n, d, sink, recent = (4, 61, 6, 3, 8) if small else (32, 4096, 128, SINK, RECENT)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    alpha = torch.rand(heads, generator=random)
    few = slice(None) if small else slice(8)  # 8 heads to train on
    return {
        "identify": (q[:, few], k[:, few], v[:, few], alpha[few], sink, recent),
        "deploy": (q, k, v, heads // 4, sink, recent),
    }


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
