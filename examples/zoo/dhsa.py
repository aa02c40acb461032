"""DHSA: blocks of queries choose chunks of keys by the products of their means; tokens of the best chunks are attended.

Xiong, Ho, Chen, et al.: Long-Context Modeling with Dynamic Hierarchical Sparse Attention for On-Device LLMs, 2025
(arXiv 2510.24606), section 3.  The boundaries of the chunks are given.  Sums are divided by the root of the length, so
that long chunks count more; the last tokens of each block's past are always chosen.  Global tokens are left out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "data-dependent, windowed, causal"
EAGER = "scores of chunks and the choice of tokens are PyTorch's; the attention to chosen tokens is fused"
BLOCK, BUDGET, LOCAL = 64, 512, 64


@attnc.compile
def dynamic(
    q: Tensor, k: Tensor, v: Tensor, chunk: Tensor, ends: Tensor, block: int, budget: int, local: int
) -> Tensor:
    """``chunk[j]`` is the chunk of token j, ``ends[c]`` the token after chunk c."""
    b, heads, n, d = q.shape
    sums = F.pad(k.mean(dim=1).cumsum(dim=1), (0, 0, 1, 0))
    starts = F.pad(ends[:-1], (1, 0))
    keys = (sums[:, ends] - sums[:, starts]) / (ends - starts).sqrt()[:, None]
    queries = q.mean(dim=1).unflatten(1, (-1, block)).sum(dim=2) / block**0.5
    last = torch.arange(block - 1, n, block)[:, None]
    token = torch.arange(n)
    score = (queries @ keys.transpose(1, 2))[:, :, chunk]
    score = score.masked_fill(token > last, float("-inf")).masked_fill((token > last - local) & (token <= last), 1e9)
    chosen = score.topk(budget, dim=-1).indices  # (B, blocks, budget), the same for all heads
    rows = torch.arange(b)[:, None, None]
    k, v = (x.transpose(1, 2)[rows, chosen].permute(0, 3, 1, 2, 4) for x in (k, v))
    mask = chosen[:, :, None, :] <= token.view(-1, block)[:, :, None]
    out = F.scaled_dot_product_attention(q.unflatten(2, (-1, block)), k, v, attn_mask=mask[:, None])
    return out.flatten(2, 3)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    b, heads, n, d, block, budget, local = (2, 2, 72, 6, 9, 20, 5) if small else (1, 8, 4096, 256, BLOCK, BUDGET, LOCAL)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, b, heads, n, d, generator=random)
    first = torch.rand(n, generator=random) < 0.05
    first[0] = True
    ends = torch.cat([first.nonzero()[1:, 0], torch.tensor([n])])
    return {"dynamic": (q, k, v, first.cumsum(0) - 1, ends, block, budget, local)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
