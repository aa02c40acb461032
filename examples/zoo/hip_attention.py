"""HiP: blocks of queries search a tree of key blocks, keep the best branches at each level, and attend to what is left.

Lee, Park, Lee, Hwang: A Training-free Sub-quadratic Cost Transformer Model Serving Framework with Hierarchically
Pruned Attention, 2024 (arXiv 2406.09827), section 3.  A branch is represented by its centre; halving rounds up, and all
ranges are as long as the whole text, so that the number of levels is known.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "data-dependent, block, causal"
EAGER = "the search of the tree is PyTorch's; the attention to the keys that it found is fused"
QUERIES, KEPT = 32, 512


def _search(q: Tensor, k: Tensor, block: int, kept: int) -> Tensor:
    """For every block of queries the ``kept`` tokens that the tree search ends at, (B, H, blocks, kept)."""
    b, heads, n, d = q.shape
    q = q.unflatten(2, (-1, block))
    last = torch.arange(block - 1, n, block)[:, None]
    first = (torch.arange(kept) * n // kept).expand(b, heads, n // block, kept)
    after = ((torch.arange(kept) + 1) * n // kept).expand(b, heads, n // block, kept)
    for _ in range(math.ceil(math.log2(n / kept))):
        middle = (first + after + 1) // 2
        first, after = torch.cat([first, middle], dim=-1), torch.cat([middle, after], dim=-1)
        centre = (first + after) // 2
        rows = k.gather(2, centre.clamp(max=n - 1).flatten(2).unsqueeze(-1).expand(-1, -1, -1, d))
        score = torch.einsum("bhuid,bhujd->bhuij", q, rows.unflatten(2, centre.shape[2:])).amax(dim=3)
        best = score.masked_fill((first > last) | (first >= after), float("-inf")).topk(kept, dim=-1).indices
        first, after = first.gather(-1, best), after.gather(-1, best)
    return first


@attnc.compile
def pruned(q: Tensor, k: Tensor, v: Tensor, block: int, kept: int) -> Tensor:
    b, heads, n, d = q.shape
    found = _search(q.detach(), k.detach(), block, kept)
    index = found.clamp(max=n - 1).flatten(2).unsqueeze(-1).expand(-1, -1, -1, d)
    keys, values = (x.gather(2, index).unflatten(2, found.shape[2:]) for x in (k, v))
    mask = found.unsqueeze(-2) <= torch.arange(n).view(-1, block, 1)
    out = F.scaled_dot_product_attention(q.unflatten(2, (-1, block)), keys, values, attn_mask=mask)
    return out.flatten(2, 3)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    heads, n, d, block, kept = (2, 72, 6, 9, 8) if small else (8, 4096, 128, QUERIES, KEPT)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    return {"pruned": (q, k, v, block, kept)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
