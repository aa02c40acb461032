"""PagedAttention: one new token of each sequence sees its past, whose keys and values lie in pages anywhere in a pool.

Kwon, Li, Zhuang, et al.: Efficient Memory Management for Large Language Model Serving with PagedAttention, 2023 (arXiv
2309.06180), section 4.1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "dense, data-dependent"


@attnc.compile
def paged_attention(q: Tensor, k_pool: Tensor, v_pool: Tensor, pages: Tensor, lengths: Tensor) -> Tensor:
    """``q`` (B, H, D); pools (pages, slots, key heads, D); ``pages`` (B, most pages); ``lengths`` (B,) in tokens."""
    k, v = (pool[pages].flatten(1, 2).transpose(1, 2) for pool in (k_pool, v_pool))  # (B, key heads, tokens, D)
    live = torch.arange(k.shape[2], device=q.device) < lengths[:, None]
    out = F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=live[:, None, None], enable_gqa=True)
    return out.squeeze(2)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, hk, d, slots, most = (3, 4, 2, 8, 4, 5) if small else (16, 32, 8, 128, 16, 128)
    pools = torch.randn(2, b * most + 1, slots, hk, d)
    pages = torch.randperm(b * most + 1)[: b * most].view(b, most)
    lengths = torch.randint(1, slots * most + 1, (b,))
    return {"paged_attention": (torch.randn(b, h, d), *pools, pages, lengths)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
