"""Hierarchical Self-Attention: siblings of a tree see each other, and through their parents the rest, block by block.

Amizadeh, Abdali, Li, Koishida: Hierarchical Self-Attention: Generalizing Neural Attention Mechanics to Multi-Scale
Problems, 2025 (arXiv 2509.15448), sections 3 and 4.

The tree is complete, with as many children at every node; a node is the mean of its leaves. The result is the closest
attention to softmax whose weights are equal inside blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "hierarchical, block"


@attnc.compile
def tree(q: Tensor, k: Tensor, v: Tensor, children: int) -> Tensor:
    """Leaves (B, H, N, D), where N is a power of ``children``."""
    b, h, n, d = q.shape
    q = q * d**-0.5
    leaves, outs, kept = 1, [], []
    energy = (q * k).sum(-1)  # a leaf with itself
    while n > 1:
        q, k, v = (x.reshape(b, h, n // children, children, d) for x in (q, k, v))
        energy = energy.reshape(b, h, n // children, children)
        siblings = q @ k.mT + torch.log(torch.tensor(float(leaves)))
        siblings = siblings.masked_fill(torch.eye(children, dtype=torch.bool), -torch.inf)
        scores = torch.cat([energy[..., None], siblings], -1)
        outs.append((scores.softmax(-1)[..., 1:] @ v).reshape(b, h, n, d))
        z = torch.logsumexp(scores, -1)
        kept.append(torch.exp(energy - z).reshape(b, h, n, 1))
        energy = z.mean(-1)
        q, k, v, values = q.mean(3), k.mean(3), v.mean(3), v
        outs[-1] = outs[-1] if leaves > 1 else outs[-1] + kept[-1] * values.reshape(b, h, n, d)
        n, leaves = n // children, leaves * children
    out = outs.pop()
    while outs:
        below = outs.pop()
        mass = kept[len(outs) + 1].repeat_interleave(children, 2)
        out = out.repeat_interleave(children, 2) + mass * below
    return out


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d, children = (1, 2, 9, 6, 3) if small else (1, 12, 4096, 64, 16)
    q, k, v = (torch.randn(b, h, n, d) for _ in range(3))
    return {"tree": (q, k, v, children)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
