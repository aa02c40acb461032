"""S2-Attention: each head sees the local blocks and every V-th block before them, at a phase of its own.

Lin, Chen, Song, et al.: S2-Attention: Hardware-Aware Context Sharding Among Attention Heads, 2024 (arXiv 2407.17678),
section 3.  Heads together cover the whole context; the phase is absolute, so blocks that no head of a group will see
again can leave its cache.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "block, dilated, causal"
BLOCK, LOCAL, STRIDE = 64, 16, 8


@attnc.compile
def sharded(q: Tensor, k: Tensor, v: Tensor, phase: Tensor, block: int, local: int, stride: int) -> Tensor:
    """``q`` has several heads for each head of ``k``; ``phase`` is a number for each head of ``k``."""
    heads, n = k.shape[1], q.shape[2]
    blocks = torch.arange((n + block - 1) // block)
    far = blocks[:, None] - blocks[None, :]
    strided = (blocks[None, None, :] + phase[:, None, None]) % stride == 0
    layout = (far >= 0) & ((far < local) | strided)
    mask = layout.repeat_interleave(block, 1).repeat_interleave(block, 2)[:, :n, :n]
    mask = mask & torch.ones(n, n, dtype=torch.bool).tril()
    groups = q.unflatten(1, (heads, -1))
    scores = torch.einsum("bhgid,bhjd->bhgij", groups, k) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask[:, None], float("-inf")).softmax(dim=-1)
    return torch.einsum("bhgij,bhjd->bhgid", weights, v).flatten(1, 2)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    # Phi-3-small has 32 heads on 8; here are 2 of those 8 and their queries, so that eager fits
    b, block, local, stride = (1, 4, 3, 4) if small else (1, BLOCK, LOCAL, STRIDE)
    heads, kv, n, d = (4, 2, 57, 6) if small else (8, 2, 4096, 128)
    random = torch.Generator().manual_seed(0)
    q = torch.randn(b, heads, n, d, generator=random)
    k, v = torch.randn(2, b, kv, n, d, generator=random)
    phase = torch.arange(kv) * max(1, stride // kv)
    return {"sharded": (q, k, v, phase, block, local, stride)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
