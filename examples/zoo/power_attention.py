"""PowerAttention: blocks see the blocks at distances 1, 2, 4, 8, ..., their neighbours, and the first block.

Chen, Yao, Zhang, Yu, et al.: PowerAttention: Exponentially Scaling of Receptive Fields for Effective Sparse
Attention, 2025 (arXiv 2503.03588), section 3.  A power of two has no bit in common with its predecessor.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "block, dilated, causal"
BLOCK, WINDOW, SINKS = 256, 5, 1


@attnc.compile
def power(q: Tensor, k: Tensor, v: Tensor, block: int, window: int, sinks: int) -> Tensor:
    n = q.shape[-2]
    rows, columns = torch.arange(n).view(-1, 1), torch.arange(n).view(1, -1)
    distance = rows // block - columns // block
    power_of_two = (distance & (distance - 1)) == 0
    mask = power_of_two | (distance < window) | (columns // block < sinks)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask & (columns <= rows))


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    # 4 of the 28 heads of Qwen2-7B, and 8K of its 32K tokens, so that eager fits
    heads, n, d, block, window = (2, 131, 6, 4, 2) if small else (4, 8192, 128, BLOCK, WINDOW)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    return {"power": (q, k, v, block, window, SINKS)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
