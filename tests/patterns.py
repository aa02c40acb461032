"""The pattern table: eager attention functions as users write them, run on every backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

INF = float("inf")
Tensor = torch.Tensor


def positions(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]


def dense(q, k, v):
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def causal(q, k, v):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    mask = torch.tril(torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool))
    return torch.softmax(scores.masked_fill(~mask, -INF), dim=-1) @ v


def causal_bottom_right(q, k, v):
    i, j = positions(q, k)
    keep = j <= i + k.shape[-2] - q.shape[-2]
    return torch.where(keep, q @ k.mT / 8, -INF).softmax(-1) @ v


def sdpa_causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def sdpa_mask(q, k, v):
    i, j = positions(q, k)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=(i - j).abs() <= 9, scale=0.3)


def window(q, k, v):
    i, j = positions(q, k)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill((i - j).abs() > 20, -INF).softmax(-1) @ v


def causal_window(q, k, v):
    i, j = positions(q, k)
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5
    bias = torch.zeros(q.shape[-2], k.shape[-2], dtype=q.dtype).masked_fill((j > i) | (i - j >= 16), -INF)
    return torch.einsum("bhij,bhjd->bhid", (scores + bias).softmax(-1), v)


def dilated(q, k, v):
    i, j = positions(q, k)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    near = ((i - j).abs() <= 4 * 5) & ((i - j) % 4 == 0)
    return scores.masked_fill(~near, -INF).softmax(-1) @ v


def dilated_causal(q, k, v):
    i, j = positions(q, k)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    keep = (i % 3 == j % 3) & (j <= i)
    return scores.where(keep, -INF).softmax(-1) @ v


def block_mask(q, k, v):
    i, j = positions(q, k)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill(i // 16 != j // 16, -INF).softmax(-1) @ v


def block_reshape(q, k, v):
    b, h, n, d = q.shape
    q, k, v = (x.reshape(b, h, n // 8, 8, x.shape[-1]) for x in (q, k, v))
    out = (q @ k.mT / d**0.5).softmax(-1) @ v
    return out.reshape(b, h, n, -1)


def global_and_window(q, k, v):
    i, j = positions(q, k)
    keep = (j < 3) | (i < 3) | ((i - j).abs() < 7)
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~keep, -INF).softmax(-1) @ v


def block_or_strided(q, k, v):  # Sparse Transformers, the fixed pattern (Child et al. 2019)
    i, j = positions(q, k)
    keep = ((i // 8 == j // 8) | (j % 8 >= 6)) & (j <= i)
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~keep, -INF).softmax(-1) @ v


def window_2d(q, k, v):
    width = 6
    i, j = positions(q, k)
    near = ((i // width - j // width).abs() <= 1) & ((i % width - j % width).abs() <= 1)
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~near, -INF).softmax(-1) @ v


def hierarchical(q, k, v):
    """Pooled past blocks and the own block in one softmax."""
    b, h, n, d = k.shape
    coarse_k = k.reshape(b, h, n // 8, 8, d).mean(-2)
    coarse_v = v.reshape(b, h, n // 8, 8, v.shape[-1]).mean(-2)
    i, j = positions(q, k)
    c = torch.arange(n // 8)[None, :]
    fine = (q @ k.mT).masked_fill((i // 8 != j // 8) | (j > i), -INF)
    coarse = (q @ coarse_k.mT).masked_fill(c >= i // 8, -INF)
    p = (torch.cat([coarse, fine], -1) / d**0.5).softmax(-1)
    return p @ torch.cat([coarse_v, v], -2)


def summary_and_window(q, k, v):
    """The mean of all keys as one more key that every query sees, put before them."""
    i, j = positions(q, k)
    near = (i - j).abs() < 5
    k, v = (torch.cat([x.mean(-2, keepdim=True), x], -2) for x in (k, v))
    keep = torch.cat([torch.ones_like(i, dtype=torch.bool), near], -1)
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~keep, -INF).softmax(-1) @ v


def two_stages(q, k, v):
    """Attention inside blocks, then over the block means."""
    b, h, n, d = q.shape
    qb, kb, vb = (x.unflatten(2, (n // 8, 8)) for x in (q, k, v))
    local = (qb @ kb.mT / d**0.5).softmax(-1) @ vb
    summary = local.mean(-2)
    return (q @ summary.mT / d**0.5).softmax(-1) @ summary


def alibi(q, k, v):
    i, j = positions(q, k)
    slope = 2.0 ** -(torch.arange(q.shape[1], dtype=q.dtype) + 1)[:, None, None]
    scores = q @ k.mT / q.shape[-1] ** 0.5 - slope * (i - j).abs()
    return scores.masked_fill(j > i, -INF).softmax(-1) @ v


def soft_cap(q, k, v):
    i, j = positions(q, k)
    scores = 5.0 * torch.tanh(q @ k.mT / q.shape[-1] ** 0.5 / 5.0)
    return scores.masked_fill(j > i, -INF).softmax(-1) @ v


def dense_bias(q, k, v, bias):
    return (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1) @ v


def relative_bias(q, k, v, table):
    i, j = positions(q, k)
    scores = q @ k.mT / q.shape[-1] ** 0.5 + table[:, (i - j).clamp(-8, 8) + 8]
    return scores.softmax(-1) @ v


def gqa(q, k, v):
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    return causal_window(q, k, v)


def sdpa_gqa(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def documents(q, k, v, ids):
    i, j = positions(q, k)
    keep = (ids[:, None, :, None] == ids[:, None, None, :]) & (j <= i)
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~keep, -INF).softmax(-1) @ v


def empty_rows(q, k, v):
    i, j = positions(q, k)
    return (q @ k.mT).masked_fill(j >= i - 5, -INF).softmax(-1) @ v


def no_key(q, k, v):
    """A mask that is never true."""
    i, j = positions(q, k)
    return (q @ k.mT).masked_fill((i >= 0) | (j >= 0), -INF).softmax(-1) @ v


def filled_rows(q, k, v):
    """Every third query sees no key; filled with the least number, its scores are all alike and it takes the mean."""
    i, j = positions(q, k)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill((i % 3 == 0) | (j > i), torch.finfo(scores.dtype).min).softmax(-1) @ v


def by_hand(q, k, v):
    i, j = positions(q, k)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    scores = torch.where(j <= i, scores, -INF)
    e = torch.exp(scores - scores.amax(-1, keepdim=True))
    return (e @ v) / e.sum(-1, keepdim=True)


def rolled_windows(q, k, v):
    """Shifted windows in one dimension: roll, partition, attend, undo."""
    b, h, n, d = q.shape
    q, k, v = (x.roll(-4, 2).reshape(b, h, n // 8, 8, d) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v)
    return out.reshape(b, h, n, d).roll(4, 2)


def heads_last(q, k, v):
    """(B, N, H, D) tensors, output (B, N, H * D)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return causal(q, k, v).transpose(1, 2).flatten(2)


# ---- captured tensors, one pattern for each way in which a score reads one


def t5_bias(q, k, v, table):
    """Causal buckets of distance that widen, shared by the batch (T5)."""
    i, j = positions(q, k)
    distance = (i - j).clamp(min=0)
    far = 4 + (torch.log(distance.clamp(min=1) / 4) * (4 / math.log(17))).long()  # no distance sits on a border
    bucket = torch.where(distance < 4, distance, far.clamp(max=7))
    scores = q @ k.mT + table[bucket].permute(2, 0, 1)
    return scores.masked_fill(j > i, -INF).softmax(-1) @ v


def grid_bias(q, k, v, table):
    """The offset on a grid of 6 columns, read from one flat table (Swin)."""
    i, j = positions(q, k)
    down, right = (i // 6 - j // 6).clamp(-3, 3) + 3, i % 6 - j % 6 + 5
    return (q @ k.mT / q.shape[-1] ** 0.5 + table[down * 11 + right].permute(2, 0, 1)).softmax(-1) @ v


def table_twice(q, k, v, table):
    """One table read at two places of one score."""
    i, j = positions(q, k)
    scores = q @ k.mT / q.shape[-1] ** 0.5 * (1 + table[:, (i - j).clamp(-4, 4) + 4]) + table[:, (i + j) % 9]
    return scores.softmax(-1) @ v


def learned_slopes(q, k, v, slopes):
    i, j = positions(q, k)
    scores = q @ k.mT / q.shape[-1] ** 0.5 - slopes[:, None, None] * (i - j).abs()
    return scores.masked_fill((i - j).abs() > 12, -INF).softmax(-1) @ v


def temperature(q, k, v, scale):
    return (q @ k.mT * scale).softmax(-1) @ v


def learned_cap(q, k, v, cap):
    cap = cap[:, None, None]
    return (cap * torch.tanh(q @ k.mT / q.shape[-1] ** 0.5 / cap)).softmax(-1) @ v


def sink(q, k, v, sinks):
    """A key that every query sees, with a learned score per head and the value 0."""
    i, j = positions(q, k)
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill((j > i) | (i - j >= 16), -INF)
    scores = torch.cat([sinks[:, None, None].expand(*scores.shape[:-1], 1), scores], -1)
    return scores.softmax(-1)[..., 1:] @ v


def row_and_key_gates(q, k, v, gate, bias):
    """A factor for each query and a summand for each key."""
    return (q @ k.mT / q.shape[-1] ** 0.5 * gate[..., None] + bias[:, None, None, :]).softmax(-1) @ v


def pair_gate(q, k, v, gate):
    i, j = positions(q, k)
    scores = q @ k.mT / q.shape[-1] ** 0.5 * torch.sigmoid(gate)
    return scores.masked_fill(j > i, -INF).softmax(-1) @ v


@dataclass(frozen=True)
class Pattern:
    """One row: a function, the tensors beyond q, k, v that it takes, and the lengths it accepts."""

    fn: Callable[..., Tensor]
    extra: Callable[..., tuple[Any, ...]] = lambda b, h, n, m, dtype: ()
    multiple: int = 1
    square: bool = False
    kv_heads: int = 1
    some_keys: bool = False
    layout: str = "BHND"

    @property
    def name(self) -> str:
        return self.fn.__name__

    def inputs(self, b, h, n, m, d, dv=None, dtype=torch.float32, seed=0) -> tuple[Any, ...] | None:
        """Inputs of these sizes, or None where the pattern does not take them."""
        if n % self.multiple or m % self.multiple or (self.square and n != m) or h % self.kv_heads:
            return None
        if self.some_keys and not m:
            return None
        generator = torch.Generator().manual_seed(seed)
        shape = [(b, h, n, d), (b, h // self.kv_heads, m, d), (b, h // self.kv_heads, m, dv or d)]
        if self.layout == "BNHD":
            shape = [(s[0], s[2], s[1], s[3]) for s in shape]
        tensors = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shape]
        return (*tensors, *self.extra(b, h, n, m, dtype))


def _wave(*shape, low=-1.0, high=1.0):
    """Smooth values that no two neighbours share."""
    count = math.prod(shape)
    return (low + (high - low) * (torch.arange(count, dtype=torch.float64) * 0.7 + 0.1).sin() ** 2).reshape(shape)


def _captured(*makers):
    """Captured tensors from functions of the sizes."""
    return lambda b, h, n, m, dtype: tuple(make(b, h, n, m).to(dtype) for make in makers)


PATTERNS = [
    Pattern(dense),
    Pattern(causal),
    Pattern(causal_bottom_right),
    Pattern(sdpa_causal),
    Pattern(sdpa_mask),
    Pattern(window),
    Pattern(causal_window),
    Pattern(dilated),
    Pattern(dilated_causal),
    Pattern(block_mask),
    Pattern(block_reshape, multiple=8, square=True),
    Pattern(global_and_window),
    Pattern(block_or_strided),
    Pattern(window_2d),
    Pattern(hierarchical, multiple=8, square=True),
    Pattern(summary_and_window, some_keys=True),
    Pattern(two_stages, multiple=8, square=True),
    Pattern(alibi),
    Pattern(soft_cap),
    Pattern(dense_bias, extra=_captured(lambda b, h, n, m: _wave(h, n, m, low=-2, high=2))),
    Pattern(relative_bias, extra=_captured(lambda b, h, n, m: _wave(h, 17))),
    Pattern(gqa, kv_heads=2),
    Pattern(sdpa_gqa, kv_heads=2),
    Pattern(documents, extra=lambda b, h, n, m, dtype: ((torch.arange(n) // 11).expand(b, n),), square=True),
    Pattern(empty_rows),
    Pattern(filled_rows),
    Pattern(no_key),
    Pattern(by_hand, some_keys=True),  # amax refuses an empty dimension
    Pattern(rolled_windows, multiple=8, square=True),
    Pattern(heads_last, layout="BNHD"),
]
CAPTURED = [
    Pattern(t5_bias, extra=_captured(lambda b, h, n, m: _wave(8, h))),
    Pattern(grid_bias, extra=_captured(lambda b, h, n, m: _wave(77, h))),
    Pattern(table_twice, extra=_captured(lambda b, h, n, m: _wave(h, 9))),
    Pattern(learned_slopes, extra=_captured(lambda b, h, n, m: _wave(h, low=0.1, high=0.4))),
    Pattern(temperature, extra=_captured(lambda b, h, n, m: torch.tensor(0.3, dtype=torch.float64))),
    Pattern(learned_cap, extra=_captured(lambda b, h, n, m: _wave(h, low=2, high=5))),
    Pattern(sink, extra=_captured(lambda b, h, n, m: _wave(h))),
    Pattern(
        row_and_key_gates,
        extra=_captured(lambda b, h, n, m: _wave(b, h, n, low=0.5, high=2), lambda b, h, n, m: _wave(b, m)),
    ),
    Pattern(pair_gate, extra=_captured(lambda b, h, n, m: _wave(b, h, n, m, low=-2, high=2))),
]
BY_NAME = {p.name: p for p in [*PATTERNS, *CAPTURED]}
