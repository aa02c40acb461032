"""Give a tile a patch of an image, and the keys around it, where a mask looks at rows and columns.

before, for images of 128 columns::

    attn.attend over "b < B, h < H, i < N" ... source "j < N" ...
      mask "abs(i // 128 - j // 128) <= 6 and abs(i % 128 - j % 128) <= 6"

after, with patches of 8 rows and 16 columns::

    attn.attend over "b < B, h < H, y < (N // 128 + 7) // 8, x < 8, i < min(8, N // 128 - y * 8) * 16" ...
      source "j < (min(N // 128, y * 8 + 14) - max(y * 8 - 6, 0)) * 28" key %k "b, h, <row j // 28, column j % 28>, d"
      mask "abs(...) <= 6 and abs(...) <= 6"

128 queries in a line see 13 whole rows of keys, a tenth of which are live; those of a patch see a box of 20 x 28.  For
GPUs, whose tiles are large; a CPU's small ones fit in a row (``image-rows``).

Legality: a change of variables of the rows, one to one, under the guard that rows are whole; every key that a patch
sees is in its box once, and the mask decides about the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.passes import ModulePass

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.expr import (
    TRUE,
    Const,
    Expr,
    Var,
    all_of,
    ceildiv,
    conjuncts,
    eq,
    evaluate,
    free_vars,
    loads,
    maximum,
    minimum,
    op,
    rewrite,
    substitute,
)
from ...ir.tile import Axis, Range
from ..analysis.cost import NOMINAL_LENGTH, device, timings
from ..analysis.index_sets import implies, tile_ranges
from ..analysis.segments import widths
from ..analysis.tiles import Tile
from .common import attends, facts_about, fresh, moved_maps, work_of
from .rewriting import replace as replace_op

PATCHES = ((8, 16), (16, 8), (4, 32), (8, 8), (4, 16))  # rows and columns
SAMPLES = 64
_ROW, _COLUMN, _KEY_ROW, _KEY_COLUMN = "_row", "_column", "_key_row", "_key_column"


@dataclass(frozen=True)
class ImagePatches(ModulePass):
    """Options: ``target`` is the device; ``names`` and ``values`` are the sizes of the call at hand."""

    name = "image-patches"
    target: str = "sm_90"
    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()

    def apply(self, ctx: Context, module: ModuleOp) -> None:
        sizes = dict(zip(self.names, self.values, strict=True))
        if not sizes or not device(self.target).is_gpu:
            return
        for func in [f for f in module.walk() if isinstance(f, attn.FuncOp)]:
            guards: list[Expr] = []
            for attend, facts in attends(module):
                if attend.tiles is None:
                    guards += self._change(attend, facts, sizes)
            func.require(guards)

    def _change(self, attend: attn.AttendOp, facts: tuple[Expr, ...], sizes: Mapping[str, int]) -> list[Expr]:
        """Rewrite one attention if that pays; the guards that it then relies on."""
        row, masks = attend.domain[-1], [s.mask for s in attend.source_list]
        for width in widths(masks, lambda x: row.name in free_vars(x)):
            whole = [
                eq(op("%", e, Const(width)), Const(0)) for e in (row.extent, *(s.extent for s in attend.source_list))
            ]
            whole = [g for g in dict.fromkeys(whole) if not facts_about(attend.domain, facts).always(g)]
            if any(not free_vars(g) <= sizes.keys() or not evaluate(g, sizes) for g in whole):
                continue
            known = (*facts, *whole)
            found = [(p, math.prod(size)) for size in PATCHES if (p := _by_patches(attend, width, size, known))]
            on, work = device(self.target), work_of(attend, known)
            before = min(timings(work, on, NOMINAL_LENGTH).values())
            timed = []
            for patch, rows in found:
                after = replace(work, domain=patch.domain, sources=tuple(patch.source_list))
                times = timings(after, on, NOMINAL_LENGTH)
                timed += [(time, tiles, patch) for tiles, time in times.items() if tiles[0] == rows]
            time, tiles, best = min(timed, key=lambda x: x[0], default=(before, (0, 0), attend))
            if time < before:
                new = best.rebuilt(tiles=tiles)
                new.attributes["patch"] = UnitAttr()
                replace_op(attend, new)
                return whole
        return []


def _by_patches(
    attend: attn.AttendOp, width: int, size: tuple[int, int], facts: tuple[Expr, ...]
) -> attn.AttendOp | None:
    """The same with rows in patches of ``size``; None where boxes of keys have no form."""
    *batch, row = attend.domain
    high, wide = size
    if free_vars(row.extent) & {d.name for d in batch} or width % wide:
        return None
    y, x = (Var(fresh(n, attend)) for n in ("y", "x"))
    lines = facts_about(batch, facts, [row.extent]).simplify(row.extent // width)
    i = Var(row.name)
    rows = Dim(row.name, minimum(Const(high), lines - y * high) * wide)
    domain = (*batch, Dim(y.name, ceildiv(lines, high)), Dim(x.name, Const(width // wide)), rows)
    at = {_ROW: y * high + i // wide, _COLUMN: x * wide + i % wide}
    sources = []
    for s in attend.source_list:
        source = _boxed(s, (row.name, lines, width), size, (y, x), domain, at, facts)
        if source is None:
            return None
        sources.append(source)
    here = {row.name: at[_ROW] * width + at[_COLUMN]}
    return attend.rebuilt(dims=domain, sources=tuple(sources), **moved_maps(attend, domain, here, facts))


def _boxed(
    s: attn.Source,
    image: tuple[str, Expr, int],
    size: tuple[int, int],
    patch: tuple[Var, Var],
    domain: Sequence[Dim],
    at: Mapping[str, Expr],
    facts: tuple[Expr, ...],
) -> attn.Source | None:
    """A source over the box of keys that a patch sees."""
    name, lines, width = image
    i, j, by = Var(name), Var(s.key), Const(width)
    split = {i // by: Var(_ROW), i % by: Var(_COLUMN), j // by: Var(_KEY_ROW), j % by: Var(_KEY_COLUMN)}
    mask = rewrite(s.mask, split.get)
    batch, (y, x) = tuple(domain[:-1]), patch
    down = Axis(_ROW, y * size[0], size[0], lines), Dim(_KEY_ROW, s.extent // width)
    across = Axis(_COLUMN, x * size[1], size[1], by), Dim(_KEY_COLUMN, by)
    ranges = [_touched(mask, (name, s.key), axis, key, batch, facts) for axis, key in (down, across)]
    if ranges[0] is None or ranges[1] is None:
        return None
    (top, bottom), (left, right) = ((r.lo, r.hi) for r in ranges if r)
    most = min(width, _most(right - left, patch))
    if most < 1 or most > width // 2 or not implies(TRUE, op("<=", right - left, most), batch, facts):
        return None
    known = facts_about(batch, facts, [s.extent])
    first = known.simplify(maximum(minimum(left, width - most), 0))  # a box within the image, so that all keys exist
    key_row, key_column = top + j // most, first + j % most
    now = {**at, _KEY_ROW: key_row, _KEY_COLUMN: key_column}
    now |= {name: at[_ROW] * width + at[_COLUMN], s.key: key_row * width + key_column}
    extent = known.simplify(maximum(bottom - top, 0) * most)
    pairs = (*domain, Dim(s.key, extent))
    inside = facts_about(pairs, facts)

    def moved(e: Expr) -> Expr:
        return inside.simplify(substitute(rewrite(e, split.get), now))

    return attn.Source(
        s.key, extent, tuple(map(moved, s.key_map)), tuple(map(moved, s.value_map)), moved(s.mask),
        replace(s.score, body=moved(s.score.body)),
    )  # fmt: skip


def _touched(
    mask: Expr, tokens: tuple[str, str], rows: Axis, key: Dim, batch: Sequence[Dim], facts: tuple[Expr, ...]
) -> Range | None:
    """The rows (or columns) of keys that a patch sees, by the conditions that are about them alone."""
    names = {_ROW, _COLUMN, _KEY_ROW, _KEY_COLUMN}
    known = {rows.name, key.name} | {d.name for d in batch}
    inner = names | set(tokens)
    own = [c for c in conjuncts(mask) if free_vars(c) & inner <= known and not loads(c)]
    if not any(key.name in free_vars(c) for c in own):
        return None
    found = tile_ranges(Tile(tuple(batch), rows, key, all_of(own), facts)).all
    if not found:
        return None
    return Range(minimum(*(r.lo for r in found)), maximum(*(r.hi for r in found)))


def _most(length: Expr, patch: tuple[Var, Var]) -> int:
    """The largest length of a range, from samples: whoever relies on it proves it."""
    names = sorted(free_vars(length))
    inner = {v.name for v in patch}
    return max(int(evaluate(length, {n: k if n in inner else SAMPLES * 64 for n in names})) for k in range(SAMPLES))
