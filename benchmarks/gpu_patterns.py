"""The attention functions of the GPU run, as users write them, and their masks, which the rivals are given too."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from gpu_plan import Case
from torch import Tensor

import attnc

WINDOW = 1024
DILATION, TAPS = 8, 128
REACH = 6  # a neighbourhood of 13 x 13
POOL = 64
BLOCK, EVERY = 128, 8
SWIN = 7

Attention = Callable[..., Tensor]
Live = Callable[[Tensor, Tensor], Tensor]
_at = cache(partial)  # one object for each mask, so that what is made of it is made once


def in_window(i: Tensor, j: Tensor) -> Tensor:
    return (i - j).abs() <= WINDOW // 2


def on_tap(i: Tensor, j: Tensor) -> Tensor:
    return ((i - j).abs() <= DILATION * TAPS // 2) & ((i - j) % DILATION == 0)


def near(i: Tensor, j: Tensor, side: int) -> Tensor:
    return ((i // side - j // side).abs() <= REACH) & ((i % side - j % side).abs() <= REACH)


def same_window(i: Tensor, j: Tensor, side: int) -> Tensor:
    return (i // side // SWIN == j // side // SWIN) & (i % side // SWIN == j % side // SWIN)


def in_blocks(i: Tensor, j: Tensor) -> Tensor:
    """The own block, its neighbours, and every eighth block."""
    return ((i // BLOCK - j // BLOCK).abs() <= 1) | (j // BLOCK % EVERY == 0)


def own_past(i: Tensor, j: Tensor) -> Tensor:
    """The fine keys of the hierarchy."""
    return (i // POOL == j // POOL) & (j <= i)


def blocks_before(i: Tensor, c: Tensor) -> Tensor:
    """The coarse keys of the hierarchy."""
    return c < i // POOL


def in_hierarchy(i: Tensor, j: Tensor, groups: int) -> Tensor:
    """Both, as positions in one row of keys: coarse ones first."""
    return ((j < groups) & blocks_before(i, j)) | ((j >= groups) & own_past(i, j - groups))


def pooled(x: Tensor) -> Tensor:
    return x.unflatten(-2, (-1, POOL)).mean(-2)


def positions(q: Tensor, keys: int) -> tuple[Tensor, Tensor]:
    return torch.arange(q.shape[-2], device=q.device)[:, None], torch.arange(keys, device=q.device)[None, :]


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(q, k, v, torch.ge)


def window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(q, k, v, in_window)


def dilated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(q, k, v, on_tap)


def neighbourhood(q: Tensor, k: Tensor, v: Tensor, side: int) -> Tensor:
    return masked(q, k, v, lambda i, j: near(i, j, side))


def block_sparse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(q, k, v, in_blocks)


def masked(q: Tensor, k: Tensor, v: Tensor, live: Live) -> Tensor:
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill(~live(*positions(q, k.shape[-2])), float("-inf")).softmax(-1) @ v


def hierarchical(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal: the own block token by token and the blocks before it as their means, in one softmax."""
    keys, values = (torch.cat([pooled(x), x], -2) for x in (k, v))
    i, j = positions(q, k.shape[-2])
    groups = torch.arange(k.shape[-2] // POOL, device=q.device)[None, :]
    live = torch.cat([blocks_before(i, groups), own_past(i, j)], -1)
    return (q @ keys.mT / q.shape[-1] ** 0.5).masked_fill(~live, float("-inf")).softmax(-1) @ values


def swin(q: Tensor, k: Tensor, v: Tensor, side: int) -> Tensor:
    """Attention inside windows of a grid."""
    b, h, n, d = q.shape
    rows = side // SWIN
    grid = (b, h, rows, SWIN, rows, SWIN, d)
    q, k, v = (x.reshape(grid).transpose(3, 4).reshape(b, h, rows * rows, SWIN * SWIN, d) for x in (q, k, v))
    out = (q @ k.mT / d**0.5).softmax(-1) @ v
    return out.reshape(b, h, rows, rows, SWIN, SWIN, d).transpose(3, 4).reshape(b, h, n, d)


def decode(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query for each head; groups of heads share keys."""
    repeat = q.shape[1] // k.shape[1]
    return dense(q, k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1))


_FUNCTIONS: dict[str, Attention] = {
    "dense": dense, "causal": causal, "window": window, "dilated": dilated, "neighbourhood": neighbourhood,
    "hierarchical": hierarchical, "swin": swin, "block-sparse": block_sparse, "decode": decode,
}  # fmt: skip


@cache
def _compiled(pattern: str) -> attnc.CompiledAttention:
    return attnc.compile(_FUNCTIONS[pattern], backend="triton", fallback="error")


def ours(case: Case) -> Attention:
    """The pattern compiled by attnc; without a GPU its kernels are interpreted."""
    return _sized(_compiled(case.pattern), case)


def as_written(case: Case) -> Attention:
    """The pattern in eager PyTorch."""
    return _sized(_FUNCTIONS[case.pattern], case)


def _sized(attention: Attention, case: Case) -> Attention:
    return partial(attention, side=case.side) if case.pattern in ("neighbourhood", "swin") else attention


def mask_of(case: Case) -> Live | None:
    """The live pairs of a query and a key, or None for all; a hierarchy's keys are the coarse ones, then the fine."""
    table: dict[str, Live] = {
        "causal": torch.ge, "window": in_window, "dilated": on_tap, "block-sparse": in_blocks,
        "neighbourhood": _at(near, side=case.side), "swin": _at(same_window, side=case.side),
        "hierarchical": _at(in_hierarchy, groups=case.tokens // POOL),
    }  # fmt: skip
    return table.get(case.pattern)


def live_pairs(case: Case, device: str) -> int:
    """How many pairs of a query and a key each head attends to, counted in pieces."""
    queries, keys = case.shapes[0][2], case.shapes[1][2]
    live = mask_of(case)
    if live is None:
        return queries * keys
    keys += keys // POOL if case.pattern == "hierarchical" else 0
    j = torch.arange(keys, device=device, dtype=torch.int32)[None, :]
    pieces = torch.arange(queries, device=device, dtype=torch.int32)[:, None].split(1024)
    return sum(int(live(i, j).sum()) for i in pieces)
