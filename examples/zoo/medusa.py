"""Medusa: the nodes of a tree of candidates see the whole cache, their ancestors and themselves.

Cai, Li, Geng, Peng, Lee, Chen, Dao: Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads,
2024 (arXiv 2401.10774), section 2.1.  Positions are depths in the tree, so siblings share one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal, dense, tree"
NODES, TOP = 63, 10


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos + turned * sin


@attnc.compile
def verify(
    q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, tree: Tensor, depth: Tensor, cos: Tensor,
    sin: Tensor,
) -> Tensor:  # fmt: skip
    """``tree[i, j]``: is node j an ancestor of node i, or i itself?  The cache holds rotated keys."""
    at = k_cache.shape[2] + depth
    q, k = _rotate(q, cos[at], sin[at]), _rotate(k, cos[at], sin[at])
    cached = torch.ones(q.shape[2], k_cache.shape[2], dtype=torch.bool)
    mask = torch.cat([cached, tree], dim=1)
    keys, values = torch.cat([k_cache, k], dim=2), torch.cat([v_cache, v], dim=2)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    heads, cache, d, nodes, top = (2, 41, 6, 11, 3) if small else (32, 4096, 128, NODES, TOP)
    random = torch.Generator().manual_seed(0)
    parent = [0] * (nodes + 1)
    tree = torch.eye(nodes + 1, dtype=torch.bool)
    for node in range(1, nodes + 1):
        parent[node] = (node - 1) // top if node <= top else int(torch.randint(1, top + 1, (), generator=random))
        tree[node] |= tree[parent[node]]
    q, k, v = torch.randn(3, 1, heads, nodes + 1, d, generator=random)
    k_cache, v_cache = torch.randn(2, 1, heads, cache, d, generator=random)
    angles = torch.arange(cache + nodes)[:, None] / 10000 ** (torch.arange(0, d, 2) / d)
    cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))
    return {"verify": (q, k, v, k_cache, v_cache, tree, tree.sum(1) - 1, cos, sin)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
