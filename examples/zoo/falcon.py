"""Falcon: drafted tokens see each other inside a block of k tokens and all blocks before it (relaxed causal mask).

Gao, Xie, Xiang, Ji: Falcon: Faster and Parallel Inference of Large Language Models through Enhanced
Semi-Autoregressive Drafting and Custom-Designed Decoding Tree, 2024 (arXiv 2412.12639), section 3.  ``decode`` verifies
a tree of such blocks: nodes see the cache, the k tokens of the root, and the blocks on their path.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "block, causal, tree"
K = 2


@attnc.compile
def train(q: Tensor, k: Tensor, v: Tensor, size: int) -> Tensor:
    n = q.shape[2]
    causal = torch.full((n, n), torch.finfo(q.dtype).min).triu(diagonal=1)
    block = torch.arange(n) // size
    relaxed = causal.masked_fill(block[:, None] == block[None, :], 0.0)
    scores = torch.matmul(q, k.transpose(2, 3)) / q.shape[-1] ** 0.5 + relaxed
    return torch.matmul(scores.softmax(dim=-1), v)


@attnc.compile
def decode(q: Tensor, k: Tensor, v: Tensor, tree: Tensor) -> Tensor:
    """The last keys are the nodes; ``tree`` says who sees whom among them, and its first columns are always seen."""
    nodes, n = tree.shape[0], k.shape[2]
    mask = torch.zeros(nodes, n)
    mask[:, n - nodes :] = mask[:, n - nodes :].masked_fill(~tree, torch.finfo(q.dtype).min)
    scores = torch.matmul(q, k.transpose(2, 3)) / q.shape[-1] ** 0.5
    return torch.matmul((scores + mask).softmax(dim=-1), v)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    # 8 of the 32 heads of Vicuna-7B, so that eager fits
    heads, n, d, blocks = (2, 59, 6, 5) if small else (8, 4096, 128, 31)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    path = torch.eye(blocks, dtype=torch.bool)
    for block in range(1, blocks):
        path[block] |= path[(block - 1) // 2]  # a complete tree of blocks
    tree = path.repeat_interleave(K, 0).repeat_interleave(K, 1)
    return {"train": (q, k, v, K), "decode": (q[:, :, : len(tree)], k, v, tree)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
