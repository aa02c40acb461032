"""How much of the square a kernel computes, counted from the closed forms of its loops.

The ranges of a ``tile.for`` are expressions of the grid; they are evaluated for all tasks at once as arrays, so
the cost is that of the number of tiles of queries, never of queries times keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..ir import tile
from ..ir.expr import Expr, all_of, free_vars
from .analysis.numeric import array_value

MOST_TASKS = 1 << 21  # tasks looked at; more are sampled evenly


@dataclass(frozen=True)
class Loop:
    """One ``tile.for``, and the mask that it applies."""

    axis: str
    kind: str  # "full" or "partial"
    step: int
    ranges: tuple[tile.Range, ...]
    mask: Expr
    key_memory: str  # argument that the keys come from: loops over one source share it
    key_index: tuple[Expr, ...]


@dataclass(frozen=True)
class Coverage:
    """Tiles by kind, and pairs, of all tasks of a kernel."""

    tasks: int
    queries: int  # rows of a tile
    empty: int
    partial: int
    full: int
    computed_pairs: int
    sampled: bool = False

    @property
    def tiles(self) -> int:
        return self.empty + self.partial + self.full


def loops_of(kernel: tile.KernelOp) -> list[Loop]:
    """The key loops of a kernel, in order."""
    names = dict(zip(kernel.args, kernel.names, strict=True))
    found = []
    for op in kernel.body.walk():
        if not isinstance(op, tile.ForOp):
            continue
        axis = op.axis.data
        body = list(op.body.walk())
        masks = [m.condition.data for m in body if isinstance(m, tile.MaskOp)]
        loads = [x for x in body if isinstance(x, tile.LoadOp) and axis in tile.tile_type(x.result).shape]
        key = loads[0] if loads else None
        memory = names.get(key.memory, "") if key is not None else ""
        index = key.index.data if key is not None else ()
        found.append(Loop(axis, op.kind.data, op.step.data, tuple(op.range_list), all_of(masks), memory, tuple(index)))
    return found


def grid_names(kernel: tile.KernelOp, exprs: Iterable[Expr]) -> list[str]:
    """The grid dimensions that some of ``exprs`` use."""
    used = set().union(*(free_vars(e) for e in exprs))
    return [d.name for d in kernel.grid.data if d.name in used]


def grid_points(kernel: tile.KernelOp, names: list[str], sizes: Mapping[str, int], most: int) -> tuple[dict, float]:
    """Arrays of the coordinates of the tasks that differ in ``names``, and how many tasks each of them stands for."""
    extents = {d.name: max(0, int(array_value(d.extent, sizes))) for d in kernel.grid.data}
    total = math.prod(extents[n] for n in names)
    flat = np.arange(total) if total <= most else np.linspace(0, total - 1, most).astype(np.int64)
    env: dict[str, np.ndarray | int] = dict(sizes)
    for name in reversed(names):
        env[name] = flat % max(extents[name], 1)
        flat = flat // max(extents[name], 1)
    rest = math.prod(n for name, n in extents.items() if name not in names)
    return env, rest * (total / most if total > most else 1)


def coverage(kernel: tile.KernelOp, sizes: Mapping[str, int]) -> Coverage:
    """Count the tiles of a kernel for the given sizes.  Sizes that are missing raise KeyError."""
    loops, rows = loops_of(kernel), kernel.rows.data
    exprs = [e for x in loops for r in x.ranges for e in (r.lo, r.hi)]
    names = grid_names(kernel, [*exprs, rows.base, rows.bound])
    env, weight = grid_points(kernel, names, sizes, MOST_TASKS)
    count = len(env[names[0]]) if names else 1
    live_rows = np.broadcast_to(np.clip(array_value(rows.bound - rows.base, env), 0, rows.size), count)
    has_rows = live_rows > 0
    tiles = {"full": np.zeros(count, np.int64), "partial": np.zeros(count, np.int64)}
    pairs = np.zeros(count, np.int64)
    for loop in loops:
        for r in loop.ranges:
            keys = np.maximum(array_value(r.hi, env) - np.asarray(array_value(r.lo, env)), 0)
            tiles[loop.kind] += -(-keys // loop.step) * has_rows
            pairs += keys * live_rows
    per_task = sum(_key_tiles(source, env) for source in _by_source(loops).values())
    possible = np.maximum(per_task, tiles["full"] + tiles["partial"]) * has_rows
    full, partial = (round(int(tiles[k].sum()) * weight) for k in ("full", "partial"))
    return Coverage(
        tasks=round(int(has_rows.sum()) * weight),
        queries=rows.size,
        empty=max(round(int(possible.sum()) * weight) - full - partial, 0),
        partial=partial,
        full=full,
        computed_pairs=round(int(pairs.sum()) * weight),
        sampled=weight != int(weight),
    )


def _by_source(loops: list[Loop]) -> dict[str, list[Loop]]:
    sources: dict[str, list[Loop]] = {}
    for loop in loops:
        sources.setdefault(loop.key_memory, []).append(loop)
    return sources


def _key_tiles(loops: list[Loop], env: Mapping[str, np.ndarray | int]) -> int:
    """Tiles of keys that a task could meet: the largest key that any task reaches, in steps."""
    ends = [array_value(r.hi, env) for loop in loops for r in loop.ranges]
    last = max((int(np.max(e)) for e in ends if np.size(e)), default=0)
    return -(-last // min(loop.step for loop in loops)) if loops else 0
