"""The attention functions of ``cpu.py`` as a user would write them, and what the rivals need for the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import attnc

WINDOW = 256  # keys in view, half of them to each side
DILATION, TAPS = 8, 64
GRID = 64  # columns of an image
BLOCK = 128  # tokens of a block of the hierarchy
SIDE = 7  # tokens along a side of a Swin window
SHIFT = 3
GROUP = 16  # tokens of a group

Live = Callable[[Tensor, Tensor], Tensor]
Attention = Callable[..., Tensor]


def causally(i: Tensor, j: Tensor) -> Tensor:
    return i >= j


def in_window(i: Tensor, j: Tensor) -> Tensor:
    return (i - j).abs() <= WINDOW // 2


def on_tap(i: Tensor, j: Tensor) -> Tensor:
    return ((i - j).abs() <= DILATION * TAPS // 2) & ((i - j) % DILATION == 0)


def nearby(radius: int) -> Live:
    """Within ``radius`` rows and columns of the image."""

    def live(i: Tensor, j: Tensor) -> Tensor:
        down, right = i // GRID - j // GRID, i % GRID - j % GRID
        return (down.abs() <= radius) & (right.abs() <= radius)

    return live


@attnc.compile
def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def masked(live: Live) -> attnc.CompiledAttention:
    """Attention to the keys that a mask leaves."""

    @attnc.compile
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        i = torch.arange(q.shape[-2])[:, None]
        j = torch.arange(k.shape[-2])[None, :]
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        return scores.masked_fill(~live(i, j), float("-inf")).softmax(-1) @ v

    return attend


@attnc.compile
def decode(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Several query heads share a head of keys and values."""
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def split(x: Tensor) -> Tensor:
    """Groups of neighbouring tokens as a batch."""
    return x.unflatten(-2, (-1, GROUP))


@attnc.compile
def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention inside each group (TNT, the inner transformer)."""
    q, k, v = split(q), split(k), split(v)
    return ((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v).flatten(-3, -2)


def grouped_by_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(split(q), split(k), split(v)).flatten(-3, -2)


# ---- Swin: (B, H, rows, columns, D), and a bias for every offset in a window


def partition(x: Tensor) -> Tensor:
    """Shift the image and cut it into windows: (..., windows, tokens of a window, D)."""
    x = x.roll((-SHIFT, -SHIFT), (-3, -2))
    x = x.unflatten(-2, (-1, SIDE)).unflatten(-4, (-1, SIDE)).transpose(-4, -3)
    return x.flatten(-3, -2).flatten(-4, -3)


def put_together(x: Tensor, rows: int, columns: int) -> Tensor:
    x = x.unflatten(-3, (rows // SIDE, columns // SIDE)).unflatten(-2, (SIDE, SIDE)).transpose(-4, -3)
    return x.flatten(-3, -2).flatten(-4, -3).roll((SHIFT, SHIFT), (-3, -2))


def regions(rows: int, columns: int) -> Tensor:
    """Tokens that the shift brought together from opposite edges must not meet: windows x tokens, by region."""
    row, column = torch.arange(rows)[:, None], torch.arange(columns)[None, :]
    down = (row >= rows - SIDE).int() + (row >= rows - SHIFT).int()
    right = (column >= columns - SIDE).int() + (column >= columns - SHIFT).int()
    region = (3 * down + right).unflatten(1, (-1, SIDE)).unflatten(0, (-1, SIDE)).transpose(1, 2)
    return region.flatten(2, 3).flatten(0, 1)


def swin_bias(table: Tensor, rows: int, columns: int) -> Tensor:
    """What is added to the scores: (H, windows, tokens, tokens)."""
    token = torch.arange(SIDE * SIDE)
    y, x = token // SIDE, token % SIDE
    offset = (y[:, None] - y[None, :] + SIDE - 1) * (2 * SIDE - 1) + x[:, None] - x[None, :] + SIDE - 1
    region = regions(rows, columns)
    apart = region[:, :, None] != region[:, None, :]
    return table[offset].permute(2, 0, 1)[:, None].masked_fill(apart, float("-inf"))


@attnc.compile
def swin(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    rows, columns = q.shape[2:4]
    q, k, v = partition(q), partition(k), partition(v)
    scores = q @ k.mT / math.sqrt(q.shape[-1]) + swin_bias(table, rows, columns)
    return put_together(scores.softmax(-1) @ v, rows, columns)


def swin_by_sdpa(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    rows, columns = q.shape[2:4]
    q, k, v = partition(q), partition(k), partition(v)
    batch = q.shape[0]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # SDPA's kernel takes four dimensions
    bias = swin_bias(table, rows, columns).transpose(0, 1).repeat(batch, 1, 1, 1).to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return put_together(out.unflatten(0, (batch, -1)).transpose(1, 2), rows, columns)


# ---- hierarchy: the own block token by token, and the blocks before it as their means


def pooled(x: Tensor) -> Tensor:
    return x.unflatten(-2, (-1, BLOCK)).mean(-2)


@attnc.compile
def hierarchical(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    i = torch.arange(q.shape[-2])[:, None]
    j = torch.arange(k.shape[-2])[None, :]
    block = torch.arange(k.shape[-2] // BLOCK)[None, :]
    live = torch.cat([block < i // BLOCK, (j // BLOCK == i // BLOCK) & (j <= i)], -1)
    keys, values = torch.cat([pooled(k), k], -2), torch.cat([pooled(v), v], -2)
    scores = q @ keys.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~live, float("-inf")).softmax(-1) @ values


def hierarchical_in_slices(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Eager PyTorch, one block of queries at a time with the keys that it may see."""
    coarse_k, coarse_v = pooled(k), pooled(v)
    later = torch.ones(BLOCK, BLOCK, dtype=torch.bool).triu(1)
    outs = []
    for n in range(q.shape[-2] // BLOCK):
        own = slice(n * BLOCK, (n + 1) * BLOCK)
        rows = q[..., own, :] / math.sqrt(q.shape[-1])
        fine = (rows @ k[..., own, :].mT).masked_fill(later, float("-inf"))
        p = torch.cat([rows @ coarse_k[..., :n, :].mT, fine], -1).softmax(-1)
        outs.append(p @ torch.cat([coarse_v[..., :n, :], v[..., own, :]], -2))
    return torch.cat(outs, -2)


def hierarchical_by_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two calls that also give the log-sum-exp, merged by hand."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    b, h, n, d = q.shape
    own = [x.reshape(b, -1, BLOCK, d) for x in (q, k, v)]
    fine, fine_lse = kernel(*own, is_causal=True)
    fine, fine_lse = fine.reshape(b, h, n, d), fine_lse.reshape(b, h, n)
    rest = q[:, :, BLOCK:]  # the first block has no past
    past = torch.arange(n // BLOCK - 1) <= torch.arange(n - BLOCK)[:, None] // BLOCK
    bias = torch.zeros(past.shape, dtype=q.dtype).masked_fill(~past, float("-inf"))
    coarse, lse = kernel(rest, pooled(k)[:, :, :-1], pooled(v)[:, :, :-1], attn_mask=bias)
    share = torch.sigmoid(lse.reshape(b, h, -1) - fine_lse[:, :, BLOCK:])[..., None].to(q.dtype)
    merged = torch.lerp(fine[:, :, BLOCK:], coarse, share)
    return torch.cat([fine[:, :, :BLOCK], merged], 2)


# ---- rivals


def sdpa_masked(live: Live, length: int) -> Attention:
    """SDPA with the mask as a tensor, made in advance."""
    position = torch.arange(length)
    mask = live(position[:, None], position[None, :])
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def flex(live: Live, length: int) -> Attention:
    """FlexAttention compiled for a mask, its block mask made in advance."""
    torch._dynamo.reset()  # it gives up after a few masks
    mask = create_block_mask(lambda b, h, i, j: live(i, j), None, None, length, length, device="cpu")
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask)


def flex_permuted(length: int) -> Attention:
    """Dilated taps for FlexAttention by a user who orders tokens by residue class: a window inside each class."""
    members = length // DILATION

    def live(i: Tensor, j: Tensor) -> Tensor:
        return (i // members == j // members) & ((i - j).abs() <= TAPS // 2)

    attend = flex(live, length)

    def ordered(x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, DILATION)).transpose(2, 3).flatten(2, 3)

    def back(x: Tensor) -> Tensor:
        return x.unflatten(2, (DILATION, -1)).transpose(2, 3).flatten(2, 3)

    return lambda q, k, v: back(attend(ordered(q), ordered(k), ordered(v)))
