"""How a kernel walks the pairs of an attention: tasks, steps and keys, counted from closed forms for concrete sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...ir.attn import Source
from ...ir.attributes import Dim
from ...ir.expr import Expr, free_vars
from .index_sets import counted_ranges
from .live_area import Points, ends_of, lengths
from .numeric import array_value
from .work import Work

MOST_TILES = 1 << 16  # of more tiles of rows an even sample is looked at


@dataclass(frozen=True, slots=True)
class Walked:
    """One loop of all tasks together: its steps, and its keys as they are and rounded up to whole blocks."""

    steps: float = 0.0
    keys: float = 0.0
    blocks: float = 0.0  # keys of whole blocks

    def __add__(self, other: Walked) -> Walked:
        return Walked(self.steps + other.steps, self.keys + other.keys, self.blocks + other.blocks)

    def times(self, n: float) -> Walked:
        return Walked(self.steps * n, self.keys * n, self.blocks * n)


@dataclass(frozen=True, slots=True)
class Walk:
    """All tasks of a kernel: how many have rows, how many rows there are, and loops without and with a mask."""

    tasks: float
    rows: float
    full: Walked
    partial: Walked

    @property
    def both(self) -> Walked:
        return self.full + self.partial


@lru_cache(maxsize=2048)
def _lengths(
    domain: tuple[Dim, ...], rows: int, source: Source, facts: tuple[Expr, ...], sizes: tuple[tuple[str, int], ...]
) -> tuple[float, float, list[np.ndarray], list[np.ndarray], float]:
    """Tasks, rows, and the lengths of full and of partial ranges of all tasks; each stands for so many."""
    tiles = counted_ranges(domain, rows, source, facts)
    points = Points(domain, ends_of(tiles), dict(sizes))
    tasks = live = 0.0
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for env in points.rows(rows, MOST_TILES):
        height = np.broadcast_to(
            np.clip(array_value(domain[-1].extent, env) - env["t"] * rows, 0, rows), env["t"].shape
        )
        tasks += float(np.count_nonzero(height))
        live += float(np.sum(height))
        for ranges, into in zip((tiles.full, tiles.partial), found, strict=True):
            into += [np.broadcast_to(lengths(r, env), env["t"].shape) * (height > 0) for r in ranges]
    scale = points.copies * points.weight
    return tasks * scale, live * scale, *found, scale


def walk(
    domain: tuple[Dim, ...],
    source: Source,
    facts: tuple[Expr, ...],
    sizes: Mapping[str, int],
    rows: int,
    step: int,
    block: int = 1,
) -> Walk:
    """Tasks of ``rows`` rows that walk the keys they see in steps, and a step in blocks."""
    known = _known(domain, (source.mask, source.extent), sizes)
    tasks, live, full, partial, scale = _lengths(tuple(domain), rows, source, tuple(facts), known)
    if full and max(int(x.max(initial=0)) for x in full) < step:  # not worth a loop without a mask
        full, partial = [], [np.sum([*full, *partial], axis=0)]
    return Walk(tasks, live, _walked(full, step, block).times(scale), _walked(partial, step, block).times(scale))


def _known(domain: tuple[Dim, ...], exprs: Iterable[Expr], sizes: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """The sizes that something depends on."""
    used = set().union(*(free_vars(d.extent) for d in domain), *(free_vars(e) for e in exprs))
    return tuple(sorted((k, v) for k, v in sizes.items() if k in used))


def _walked(found: Sequence[np.ndarray], step: int, block: int) -> Walked:
    total = Walked()
    for x in found:
        total += Walked(float(np.sum(-(-x // step))), float(np.sum(x)), float(np.sum(-(-x // block) * block)))
    return total


def rows_of(domain: tuple[Dim, ...], sizes: Mapping[str, int]) -> float:
    """All rows of a domain."""
    points = Points(domain, [], sizes)
    extents = np.maximum(array_value(domain[-1].extent, points.env), 0)
    return float(np.sum(np.broadcast_to(extents, points.count))) * points.copies


def swapped(work: Work, n: int) -> tuple[tuple[Dim, ...], Source]:
    """Source ``n`` of an attention as its gradient walks it: rows are keys, and the loop is over queries."""
    *batch, row = work.domain
    source = work.sources[n]
    queries = Source(row.name, row.extent, (), (), source.mask, source.score)
    return (*batch, Dim(source.key, source.extent)), queries
