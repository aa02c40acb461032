"""How many (query, key) pairs are live, and how many a tiling computes, without an N x N array.

Key ranges are summed over rows in closed form, or evaluated for many rows at once.  Rows whose keys are all full are
counted exactly; where the mask decides within a range, it is evaluated for a sample of rows: an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.attn import Source
from ...ir.attributes import Dim
from ...ir.expr import TRUE, ZERO, Const, Expr, Op, Var, ceildiv, evaluate, free_vars, maximum, walk
from ...ir.poly import of_expr
from ...ir.tile import Range
from .index_sets import KeyRanges, key_ranges
from .numeric import array_value, countable
from .sums import total

MOST_ROWS = 1 << 24  # beyond this many rows (or tiles) an even sample is counted
MOST_SUMS = 64  # up to this many points of the batch each line of rows is summed in closed form
MOST_DOUBLINGS = 16  # of a size
CHUNK = 1 << 16  # rows at a time: their arrays stay in a cache
SAMPLE_ROWS = 512
SAMPLE_KEYS = 2048
Env = dict[str, Any]


@dataclass(frozen=True)
class LivePairs:
    """How many pairs attend; ``exact`` unless that is an estimate from a sample."""

    count: int
    exact: bool


def live_pairs(
    domain: Sequence[Dim], source: Source, sizes: Mapping[str, int], *, facts: Iterable[Expr] = ()
) -> LivePairs:
    """Count the pairs of one source for concrete sizes."""
    ranges = key_ranges(domain, 1, source, tuple(facts))
    points = Points(domain, [*ends_of(ranges), source.mask], sizes)
    full, partial = (points.keys(part) for part in (ranges.full, ranges.partial))
    if not partial:
        return LivePairs(full, points.exact)
    fraction = _live_fraction(points, domain[-1], source, ranges.partial)
    return LivePairs(full + round(partial * fraction), False)


def computed_pairs(
    domain: Sequence[Dim],
    source: Source,
    sizes: Mapping[str, int],
    *,
    rows: int,
    padded: Sequence[tuple[int, int]] = ((1, 1),),
    facts: Iterable[Expr] = (),
) -> list[int]:
    """Pairs that tiles of ``rows`` queries compute, for each way to round up rows and each range's keys."""
    tiles = key_ranges(domain, rows, source, tuple(facts))
    points = Points(domain, ends_of(tiles), sizes)
    areas = [0] * len(padded)
    for env in points.rows(rows):
        extent = array_value(domain[-1].extent, env)
        height = np.clip(extent - env["t"] * rows, 0, rows)
        for r in tiles.all:
            keys = lengths(r, env)
            for n, (most_rows, most_keys) in enumerate(padded):
                areas[n] += int(np.sum(_up(keys, most_keys) * _up(height, most_rows)))
    return [points.scaled(area) for area in areas]


def ends_of(ranges: KeyRanges) -> list[Expr]:
    return [e for r in ranges.all for e in (r.lo, r.hi)]


def lengths(r: Range, env: Env) -> Any:
    return np.maximum(array_value(r.hi, env) - array_value(r.lo, env), 0)


def _up(count: Any, multiple: int) -> Any:
    return -(-count // multiple) * multiple


class Points:
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
            if d.name not in used and np.ndim(extent) == 0:
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

    def keys(self, ranges: Sequence[Range]) -> int:
        """Keys of single rows' ranges, over the whole domain."""
        if not ranges:
            return 0
        if self.count <= MOST_SUMS and (closed := self._closed(ranges)) is not None:
            return closed * self.copies
        keys = 0
        for env in self.rows(1):
            keys += sum(int(np.sum(np.broadcast_to(lengths(r, env), env["t"].shape))) for r in ranges)
        return self.scaled(keys)

    def _closed(self, ranges: Sequence[Range]) -> int | None:
        """The same in closed form, for one copy; None when there is none."""
        keys = 0
        for n in range(self.count):
            env = {k: int(v[n]) if isinstance(v, np.ndarray) else v for k, v in self.env.items()}
            rows = max(0, int(evaluate(self.row.extent, env)))
            for r in ranges:
                part = total(maximum(r.hi - r.lo, ZERO), "t", rows, env)
                if part is None:
                    return None
                keys += part
        return keys

    def sample(self, most: int) -> Iterable[Env]:
        """Environments of single rows, evenly spread over the domain."""
        ends = self._row_ends(1)
        if self.count and ends[-1]:
            here = self._at(np.unique(np.linspace(0, int(ends[-1]) - 1, most).astype(np.int64)), ends)
            for n in range(len(here["t"])):
                yield {k: v[n] if isinstance(v, np.ndarray) and v.ndim else v for k, v in here.items()}

    def _row_ends(self, size: int) -> Any:
        """Where the rows (or tiles) of each point end, when all are laid out in a line."""
        tiles = np.maximum(array_value(ceildiv(self.row.extent, size), self.env), 0)
        return np.cumsum(np.broadcast_to(np.asarray(tiles, dtype=np.int64), (self.count,)))

    def rows(self, size: int, most: int | None = None) -> Iterable[Env]:
        """Environments that hold ``t`` and the batch dimensions, for ``most`` tiles of ``size`` rows."""
        most = MOST_ROWS if most is None else most
        ends = self._row_ends(size)
        count = int(ends[-1]) if self.count else 0
        step = 1
        if count > most:
            step = -(-count // most) | 1  # odd, so that no power of two hides from the sample
            self.exact = False
        taken = len(range(0, count, step))
        self.weight = count / taken if taken else 1.0
        for start in range(0, count, step * CHUNK):
            yield self._at(np.arange(start, min(start + step * CHUNK, count), step), ends)

    def _at(self, at: Any, ends: Any) -> Env:
        if self.count == 1:
            return {**self.env, "t": at} | {k: v[0] for k, v in self.env.items() if isinstance(v, np.ndarray)}
        point = np.searchsorted(ends, at, side="right")
        before = np.where(point > 0, ends[point - 1], 0)
        env = {k: v[point] if isinstance(v, np.ndarray) else v for k, v in self.env.items()}
        return {**env, "t": at - before}

    def scaled(self, count: int) -> int:
        """A count over the rows that :meth:`rows` gave, for the whole domain."""
        return self.copies * (round(count * self.weight) if self.weight != 1.0 else count)


def _live_fraction(points: Points, row: Dim, source: Source, ranges: Sequence[Range]) -> float:
    """The share of live pairs within partial ranges, from a sample of rows."""
    if not countable(source.mask) or source.mask == TRUE:
        return 1.0
    seen = live = 0.0
    for here in points.sample(SAMPLE_ROWS):
        for r in ranges:
            lo, hi = int(array_value(r.lo, here)), int(array_value(r.hi, here))
            if hi <= lo:
                continue
            keys = np.arange(lo, hi, max(1, (hi - lo) // SAMPLE_KEYS | 1) if hi - lo > SAMPLE_KEYS else 1)
            mask = array_value(source.mask, {**here, row.name: here["t"], source.key: keys})
            seen += hi - lo
            live += float(np.mean(np.broadcast_to(mask, keys.shape))) * (hi - lo)
    return live / seen if seen else 1.0


def nominal_sizes(
    domain: Sequence[Dim], sources: Sequence[Source], length: int, facts: Sequence[Expr] = ()
) -> dict[str, int]:
    """Sizes to weigh choices with when none are known: ``length`` rows and keys, few of everything else.

    The rows and columns of an image are ``length`` together.  ``facts`` may say what some sizes are.
    """
    extents = [domain[-1].extent, *(s.extent for s in sources)]
    long = set().union(*map(free_vars, extents))
    names = long.union(*(free_vars(d.extent) for d in domain), *(free_vars(s.mask) for s in sources))
    known = dict(pinned for fact in facts for pinned in _pinned(fact))
    found = {n: length if n in long else 4 for n in names} | known
    for product in (m for e in extents for part in walk(e) for m in of_expr(part)):
        grid = {x.name for x in product if isinstance(x, Var)}
        if len(grid) > 1 and (free := grid - known.keys()):
            rest = length / math.prod(known.get(n, 1) for n in grid)
            found |= dict.fromkeys(free, max(round(rest ** (1 / len(free))), 1))
    _fill(domain, found, known)
    inner = {d.name for d in domain} | {s.key for s in sources}
    return {n: found[n] for n in sorted(names - inner)}


def _fill(domain: Sequence[Dim], sizes: dict[str, int], known: Mapping[str, int]) -> None:
    """Make sizes larger until no dimension is empty, such as the groups ``g < N // 49`` of so few tokens.

    ``sizes`` are changed in place; a dimension whose extent uses others may be empty for some of these.
    """
    inner = {d.name for d in domain}
    for d in domain:
        used = free_vars(d.extent)
        free = set() if used & inner else used - known.keys()
        for _ in range(MOST_DOUBLINGS):
            if not free or evaluate(d.extent, sizes) >= 1:
                break
            sizes |= {n: sizes[n] * 2 for n in free}


def _pinned(fact: Expr) -> Iterator[tuple[str, int]]:
    """A size that a guard makes a number."""
    match fact:
        case Op("==", (Var(name), Const(int() as value))):
            yield name, value
