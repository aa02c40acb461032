"""How many (query, key) pairs are live, and how many a tiling computes, without an N x N array.

Closed-form key ranges are evaluated for many rows at once.  Rows whose keys are all full are counted exactly; where
the mask decides within a range, it is evaluated for a sample of rows and the count is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.attn import Source
from ...ir.attributes import Dim
from ...ir.expr import TRUE, Expr, ceildiv, free_vars
from ...ir.tile import Range
from .index_sets import KeyRanges, key_ranges
from .numeric import array_value, countable

MOST_ROWS = 1 << 24  # beyond this many rows (or tiles) an even sample is counted
CHUNK = 1 << 20
SAMPLE_ROWS = 512
SAMPLE_KEYS = 2048
Env = dict[str, Any]


@dataclass(frozen=True)
class LivePairs:
    """Pairs that attend, pairs that are computed, and all pairs of the domain."""

    live: int
    computed: int
    total: int
    exact: bool

    @property
    def live_fraction(self) -> float:
        return self.live / self.total if self.total else 1.0

    @property
    def computed_fraction(self) -> float:
        return self.computed / self.total if self.total else 1.0


def live_pairs(
    domain: Sequence[Dim], source: Source, sizes: Mapping[str, int], *, rows: int = 64, facts: Iterable[Expr] = ()
) -> LivePairs:
    """Count the pairs of one source for concrete sizes, in tiles of ``rows`` queries."""
    facts = tuple(facts)
    single = key_ranges(domain, 1, source, facts)
    points = _Points(domain, [*_ends(single), source.mask, source.extent], sizes)
    full = partial = total = 0
    for env in points.rows(1):
        keys = np.maximum(array_value(source.extent, env), 0)
        total += int(np.sum(np.broadcast_to(keys, env["t"].shape)))
        full += _keys(single.full, env)
        partial += _keys(single.partial, env)
    live, exact = full * points.copies, points.exact
    if partial:
        fraction = _live_fraction(points, domain[-1], source, single.partial)
        live, exact = live + round(partial * points.copies * fraction), False
    computed = computed_pairs(domain, source, sizes, rows=rows, facts=facts)
    return LivePairs(points.scaled(live), computed, points.scaled(total * points.copies), exact)


def computed_pairs(
    domain: Sequence[Dim],
    source: Source,
    sizes: Mapping[str, int],
    *,
    rows: int,
    padded: tuple[int, int] = (1, 1),
    facts: Iterable[Expr] = (),
) -> int:
    """Pairs that tiles of ``rows`` queries compute; rows and each range's keys are rounded up to ``padded``."""
    tiles = key_ranges(domain, rows, source, tuple(facts))
    points = _Points(domain, [*_ends(tiles), source.extent], sizes)
    area = 0
    for env in points.rows(rows):
        extent = array_value(domain[-1].extent, env)
        height = _up(np.clip(extent - env["t"] * rows, 0, rows), padded[0])
        for r in tiles.all:
            area += int(np.sum(_up(_lengths(r, env), padded[1]) * height))
    return points.scaled(area * points.copies)


def _ends(ranges: KeyRanges) -> list[Expr]:
    return [e for r in ranges.all for e in (r.lo, r.hi)]


def _lengths(r: Range, env: Env) -> Any:
    return np.maximum(array_value(r.hi, env) - array_value(r.lo, env), 0)


def _keys(ranges: Iterable[Range], env: Env) -> int:
    return sum(int(np.sum(np.broadcast_to(_lengths(r, env), env["t"].shape))) for r in ranges)


def _up(count: Any, multiple: int) -> Any:
    return -(-count // multiple) * multiple


class _Points:
    """The rows (or tiles) of a domain as flat arrays; dimensions that nothing depends on only multiply."""

    def __init__(self, domain: Sequence[Dim], exprs: Iterable[Expr], sizes: Mapping[str, int]):
        *batch, self.row = domain
        used = set().union(*(free_vars(e) for e in exprs), *(free_vars(d.extent) for d in domain))
        self.copies = 1
        self.exact = True
        self.weight = 1.0
        env: Env = dict(sizes)
        count = 1
        for d in batch:
            extent = np.maximum(array_value(d.extent, env), 0)
            if d.name not in used:
                self.copies *= int(extent)
                continue
            extents = np.broadcast_to(np.asarray(extent, dtype=np.int64), (count,))
            origin = np.repeat(np.arange(count), extents)
            for name, value in env.items():
                if isinstance(value, np.ndarray):
                    env[name] = value[origin]
            starts = np.cumsum(extents) - extents
            env[d.name] = np.arange(len(origin)) - starts[origin]
            count = len(origin)
        self.env, self.count = env, count

    def rows(self, size: int) -> Iterable[Env]:
        """Environments that hold ``t`` and the batch dimensions, for tiles of ``size`` rows."""
        tiles = np.maximum(array_value(ceildiv(self.row.extent, size), self.env), 0)
        ends = np.cumsum(np.broadcast_to(np.asarray(tiles, dtype=np.int64), (self.count,)))
        total = int(ends[-1]) if self.count else 0
        step = 1
        if total > MOST_ROWS:
            step = -(-total // MOST_ROWS) | 1  # odd, so that no power of two hides from the sample
            self.exact = False
        taken = len(range(0, total, step))
        self.weight = total / taken if taken else 1.0
        for start in range(0, total, step * CHUNK):
            at = np.arange(start, min(start + step * CHUNK, total), step)
            yield self._at(at, ends)

    def _at(self, at: Any, ends: Any) -> Env:
        if self.count == 1:
            return {**self.env, "t": at} | {k: v[0] for k, v in self.env.items() if isinstance(v, np.ndarray)}
        point = np.searchsorted(ends, at, side="right")
        before = np.where(point > 0, ends[point - 1], 0)
        env = {k: v[point] if isinstance(v, np.ndarray) else v for k, v in self.env.items()}
        return {**env, "t": at - before}

    def scaled(self, count: float) -> int:
        """A count over the sample, for the whole domain."""
        return round(count * self.weight) if self.weight != 1.0 else int(count)


def _live_fraction(points: _Points, row: Dim, source: Source, ranges: Sequence[Range]) -> float:
    """The share of live pairs within partial ranges, from a sample of rows."""
    if not countable(source.mask) or source.mask == TRUE:
        return 1.0
    seen = live = 0.0
    for env in points.rows(1):
        at = np.unique(np.linspace(0, len(env["t"]) - 1, SAMPLE_ROWS).astype(np.int64))
        for n in at:
            here = {k: v[n] if isinstance(v, np.ndarray) and v.ndim else v for k, v in env.items()}
            for r in ranges:
                lo, hi = int(array_value(r.lo, here)), int(array_value(r.hi, here))
                if hi <= lo:
                    continue
                keys = np.arange(lo, hi, max(1, (hi - lo) // SAMPLE_KEYS | 1) if hi - lo > SAMPLE_KEYS else 1)
                mask = array_value(source.mask, {**here, row.name: here["t"], source.key: keys})
                seen += hi - lo
                live += float(np.mean(np.broadcast_to(mask, keys.shape))) * (hi - lo)
    return live / seen if seen else 1.0


def nominal_sizes(domain: Sequence[Dim], sources: Sequence[Source], length: int) -> dict[str, int]:
    """Sizes to weigh choices with when none are known: ``length`` rows and keys, few of everything else."""
    long = free_vars(domain[-1].extent).union(*(free_vars(s.extent) for s in sources))
    names = long.union(*(free_vars(d.extent) for d in domain), *(free_vars(s.mask) for s in sources))
    inner = {d.name for d in domain} | {s.key for s in sources}
    return {n: length if n in long else 4 for n in sorted(names - inner)}
