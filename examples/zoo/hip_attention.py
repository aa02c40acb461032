"""HiP: blocks of queries search a tree of keys, keep the best branches at each level, and attend to what is left.

Lee, Park, Lee, Hwang: A Training-free Sub-quadratic Cost Transformer Model Serving Framework with Hierarchically
Pruned Attention, 2024 (arXiv 2406.09827), section 3.  A branch is represented by its centre.  The search looks at the
tokens before a block; the window is the block itself.
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


def _search(q: Tensor, k: Tensor, start: Tensor, kept: int) -> Tensor:
    """The tokens that the tree search of each block of queries ends at, (B, H, blocks, kept); n where there is none."""
    n, shape = k.shape[2], (*q.shape[:3], kept)
    first = (torch.arange(kept) * n // kept).expand(shape)
    after = ((torch.arange(kept) + 1) * n // kept).expand(shape)
    for _ in range(math.ceil(math.log2(n / kept))):
        middle = (first + after + 1) // 2
        first, after = torch.cat([first, middle], dim=-1), torch.cat([middle, after], dim=-1)
        centre = ((first + after) // 2).clamp(max=n - 1)
        keys = k.gather(2, centre.flatten(2).unsqueeze(-1).expand(-1, -1, -1, k.shape[3])).unflatten(
            2, centre.shape[2:]
        )
        score = torch.einsum("bhuid,bhujd->bhuij", q, keys).amax(dim=3)
        best = score.masked_fill((first >= start) | (first >= after), float("-inf")).topk(kept, dim=-1).indices
        first, after = first.gather(-1, best), after.gather(-1, best)
    return first.masked_fill((first >= start) | (first >= after), n)


@attnc.compile
def pruned(q: Tensor, k: Tensor, v: Tensor, block: int, kept: int) -> Tensor:
    b, heads, n, d = q.shape
    start = torch.arange(0, n, block)[:, None]
    q = q.unflatten(2, (-1, block))
    found = _search(q.detach(), k.detach(), start, kept)
    index = found.clamp(max=n - 1).flatten(2).unsqueeze(-1).expand(-1, -1, -1, d)
    far = [x.gather(2, index).unflatten(2, found.shape[2:]) for x in (k, v)]
    near = [x.unflatten(2, (-1, block)) for x in (k, v)]
    keys, values = (torch.cat(x, dim=3) for x in zip(far, near, strict=True))
    causal = torch.ones(block, block, dtype=torch.bool).tril().expand(b, heads, n // block, -1, -1)
    mask = torch.cat([(found < n).unsqueeze(-2).expand(-1, -1, -1, block, -1), causal], dim=-1)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask).flatten(2, 3)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    heads, n, d, block, kept = (2, 72, 6, 9, 8) if small else (8, 4096, 128, QUERIES, KEPT)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    return {"pruned": (q, k, v, block, kept)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
