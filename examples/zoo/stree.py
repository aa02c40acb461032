"""STree: state-space layers run over a tree of candidates; states decay along the path from each node's ancestors.

Wu, Zhu, Zhang, Zhao, Chen, Sun, et al.: STree: Speculative Tree Decoding for Hybrid State-Space Models, 2025
(arXiv 2505.14969), section 3.  ``attention`` is the hybrid's attention layer under the same tree.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "tree, linear"
EAGER = "the state-space layer has no softmax: its decayed products are PyTorch's; the attention layer is fused"


@attnc.compile
def state_space(c: Tensor, b: Tensor, x: Tensor, decay: Tensor, state: Tensor, tree: Tensor) -> Tensor:
    """``decay`` is the logarithm for each node (B, H, n); ``tree[i, j]``: is node j on the path to node i?"""
    path = decay @ tree.to(decay.dtype).T  # sums along the path from the root
    between = (path.unsqueeze(-1) - path.unsqueeze(-2)).masked_fill(~tree, float("-inf"))
    weights = torch.einsum("bhid,bhjd->bhij", c, b) * between.exp()
    return weights @ x + path.exp().unsqueeze(-1) * (c @ state)


@attnc.compile
def attention(q: Tensor, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, tree: Tensor) -> Tensor:
    cached, scale = q @ k_cache.transpose(-2, -1), q.shape[-1] ** -0.5
    drafted = (q @ k.transpose(-2, -1)).masked_fill(~tree, float("-inf"))
    weights = (torch.cat([cached, drafted], dim=-1) * scale).softmax(dim=-1)
    return weights @ torch.cat([v_cache, v], dim=2)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    heads, cache, d, wide, nodes = (2, 37, 6, 7, 7) if small else (32, 4096, 128, 64, 31)
    random = torch.Generator().manual_seed(0)
    tree = torch.eye(nodes, dtype=torch.bool)
    for node in range(1, nodes):
        tree[node] |= tree[(node - 1) // 2]  # a complete binary tree
    c, b = torch.randn(2, 1, heads, nodes, d, generator=random)
    x, state = (torch.randn(1, heads, m, wide, generator=random) for m in (nodes, d))
    decay = -torch.rand(1, heads, nodes, generator=random)
    q, k, v = torch.randn(3, 1, heads, nodes, d, generator=random)
    k_cache, v_cache = torch.randn(2, 1, heads, cache, d, generator=random)
    return {"state_space": (c, b, x, decay, state, tree), "attention": (q, k, v, k_cache, v_cache, tree)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
