"""BigBird: blocks see their neighbours, the first and the last block, and random blocks drawn for each head.

Zaheer, Guruganesh, Dubey, et al.: Big Bird: Transformers for Longer Sequences, 2020 (arXiv 2007.14062), section 2 and
appendix D.  The first and the last block see everything.  Random blocks are drawn beside all others, so no key counts
twice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "block, windowed, global"
BLOCK, RANDOM = 64, 3


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return torch.matmul(F.softmax(scores, dim=-1), v)


@attnc.compile
def gathered(q: Tensor, k: Tensor, v: Tensor, drawn: Tensor, block: int) -> Tensor:
    """``drawn[h, u]`` lists the random blocks of block ``u``; what a block sees is gathered block by block."""
    b, heads, n, d = q.shape
    count = n // block
    q, blocks = q.view(b, heads, count, block, d), [x.view(b, heads, count, block, d) for x in (k, v)]
    head = torch.arange(heads)[:, None, None]
    chosen = [x[:, head, drawn].flatten(3, 4) for x in blocks]
    first, last = (_attend(q[:, :, u], k, v).unsqueeze(2) for u in (0, -1))
    pairs = list(zip(blocks, chosen, strict=True))
    second = [torch.cat([x[:, :, :3].flatten(2, 3), x[:, :, -1], r[:, :, 1]], dim=2) for x, r in pairs]
    before = [torch.cat([x[:, :, 0], x[:, :, -3:].flatten(2, 3), r[:, :, -2]], dim=2) for x, r in pairs]
    inner = []
    for x, r in pairs:
        ends = [x[:, :, u : u + 1].expand(-1, -1, count - 4, -1, -1) for u in (0, count - 1)]
        window = [x[:, :, 1:-3], x[:, :, 2:-2], x[:, :, 3:-1]]
        inner.append(torch.cat([*ends, *window, r[:, :, 2:-2]], dim=3))
    edges = [_attend(q[:, :, u], *seen).unsqueeze(2) for u, seen in ((1, second), (-2, before))]
    out = torch.cat([first, edges[0], _attend(q[:, :, 2:-2], *inner), edges[1], last], dim=2)
    return out.view(b, heads, n, d)


@attnc.compile
def layout(q: Tensor, k: Tensor, v: Tensor, drawn: Tensor, block: int) -> Tensor:
    """The same as a mask, from a layout of blocks."""
    heads, count = q.shape[1], q.shape[2] // block
    u = torch.arange(count)
    near = (u[:, None] - u[None, :]).abs() <= 1
    edge = (u == 0) | (u == count - 1)
    blocks = (near | edge[:, None] | edge[None, :]).repeat(heads, 1, 1).scatter(2, drawn, True)
    mask = blocks.repeat_interleave(block, dim=1).repeat_interleave(block, dim=2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    heads, count, block, d, r = (2, 12, 5, 6, 2) if small else (12, 64, BLOCK, 64, RANDOM)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, count * block, d, generator=random)
    u = torch.arange(count)
    taken = ((u[:, None] - u[None, :]).abs() <= 1) | (u == 0) | (u == count - 1)
    drawn = torch.rand(heads, count, count, generator=random).masked_fill(taken, -1.0).topk(r, dim=-1).indices
    drawn[:, [0, -1]] = 0  # these see everything anyway
    return {"gathered": (q, k, v, drawn, block), "layout": (q, k, v, drawn, block)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
