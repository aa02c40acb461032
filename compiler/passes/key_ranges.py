"""Walk only the keys that a tile of queries may see, and mask only where it must.

before::

    tile.for j in ["0, N"] step 64 partial carry (...) { ... tile.mask %s where "abs(i - j) <= 256" ... }

after, for rows ``t * 64 .. t * 64 + 63``::

    tile.for j in ["max(t * 64 - 192, 0), min(N, t * 64 + 256)"] step 64 full carry (...) { ... no mask ... }
    tile.for j in ["max(t * 64 - 256, 0), max(t * 64 - 192, 0)", "min(N, t * 64 + 256), min(N, t * 64 + 320)"]
      step 64 partial carry (...) { ... tile.mask ... }

With ``strip``, each loop that masks also tells which keys the ``strip`` rows from ``i`` on may see, in its attributes
``strips`` and ``strip``: a backend that computes so many rows at a time need not look at the others.  Where no
loop is without a mask, and the keys that all of these rows see are one range, ``unmasked`` is that range.

Legality: a key whose score is masked for every row of the tile leaves the carried values as they are (its
probability is 0), the order of keys does not matter to the result, and the index sets prove which keys are masked
for all rows and which for none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, IntAttr, ModuleOp, UnitAttr
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from ...ir import attn, tile
from ...ir.attributes import Dim
from ...ir.expr import TRUE, ZERO, Const, Expr, Var, all_of, free_vars, op, substitute
from ..analysis.index_sets import KeyRanges as Ranges
from ..analysis.index_sets import Tile, implies, tile_ranges
from .kernel_builder import fresh

TOUCHED = 1 << 30  # more keys than there are: a full range as long as this is none


@dataclass(frozen=True)
class KeyRanges(ModulePass):
    """Options: ``min_full`` is the fewest keys worth a loop without a mask; 0 means one step of the loop.

    ``strip`` is how many rows a backend computes at a time; 0 means all.
    """

    name = "key-ranges"
    min_full: int = 0
    strip: int = 0

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        facts = tuple(g for f in op.walk() if isinstance(f, attn.FuncOp) for g in f.facts)
        for kernel in tile.kernels_of(op).values():
            for loop in [o for o in kernel.body.block.ops if isinstance(o, tile.ForOp)]:
                if _walks_all_keys(loop) and not _writes(loop):
                    self._split(kernel, loop, facts)

    def _split(self, kernel: tile.KernelOp, loop: tile.ForOp, facts: tuple[Expr, ...]) -> None:
        rows, grid = kernel.rows.data, kernel.grid.data
        single: dict[str, Expr] = {d.name: ZERO for d in grid if d.extent == Const(1)}
        rows = replace(rows, base=substitute(rows.base, single))
        masks = [o for o in loop.body.block.ops if isinstance(o, tile.MaskOp)]
        mask = all_of(m.condition.data for m in masks)
        key = Dim(loop.axis.data, loop.range_list[0].hi)
        if free_vars(mask) & _other_axes(loop, {rows.name, key.name}):
            return  # a mask over features is not a set of pairs
        pairs = Tile(grid, rows, key, mask, facts)
        step = loop.step.data
        ranges = tile_ranges(pairs, self.min_full or step, math.gcd(rows.size, step))
        if not implies(TRUE, op("<", rows.base, rows.bound), grid, facts):
            ranges = _only_where_rows_are(ranges, op("<", rows.base, rows.bound))
        if ranges.partial and 0 < self.strip < rows.size and not rows.size % self.strip:
            strips = _strips(pairs, self.strip, TOUCHED).all
            if any(rows.name in free_vars(e) for r in strips for e in (r.lo, r.hi)):  # else all see the same
                loop.attributes["strips"] = ArrayAttr([tile.RangeAttr(r) for r in strips])
                loop.attributes["strip"] = IntAttr(self.strip)
                # beside a loop without a mask too few pairs are left for it to be worth knowing
                if not ranges.full and len(unmasked := _strips(pairs, self.strip, 1).full) == 1:
                    loop.attributes["unmasked"] = tile.RangeAttr(unmasked[0])
        state: list[SSAValue] = list(loop.initial)
        for kind, chosen in (("full", ranges.full), ("partial", ranges.partial)):
            if chosen:
                state = _copy(loop, kind, chosen, state, rest=kind == "partial" and bool(ranges.full))
        for result, value in zip(loop.results_, state, strict=True):
            result.replace_all_uses_with(value)
        Rewriter.erase_op(loop)


def _strips(pairs: Tile, height: int, min_full: int) -> Ranges:
    """The keys that ``height`` rows see, in terms of the first of them, which has the name of the rows."""
    rows = pairs.rows
    first = fresh("first", {d.name for d in pairs.batch} | {rows.name, pairs.key.name} | free_vars(pairs.mask))
    found = tile_ranges(replace(pairs, rows=tile.Axis(rows.name, Var(first), height, rows.bound)), min_full)
    at = {first: Var(rows.name)}

    def named(ranges: tuple[tile.Range, ...]) -> tuple[tile.Range, ...]:
        return tuple(tile.Range(substitute(r.lo, at), substitute(r.hi, at)) for r in ranges)

    return Ranges(named(found.full), named(found.partial))


def _walks_all_keys(loop: tile.ForOp) -> bool:
    return len(loop.range_list) == 1 and loop.range_list[0].lo == ZERO


def _writes(loop: tile.ForOp) -> bool:
    """Does it store something for every key, live or not?"""
    return any(isinstance(o, tile.StoreOp) and o.add is None for o in loop.body.walk())


def _other_axes(loop: tile.ForOp, known: set[str]) -> set[str]:
    axes: set[str] = set()
    for inner in loop.body.walk():
        for value in inner.results:
            if isinstance(value.type, tile.TileType):
                axes |= value.type.shape.keys()
    return axes - known


def _only_where_rows_are(ranges: Ranges, alive: Expr) -> Ranges:
    """Empty ranges for the tiles of the grid that have no rows."""

    def limit(found: tuple[tile.Range, ...]) -> tuple[tile.Range, ...]:
        return tuple(tile.Range(r.lo, op("where", alive, r.hi, r.lo)) for r in found)

    return Ranges(limit(ranges.full), limit(ranges.partial))


def _copy(
    loop: tile.ForOp, kind: str, ranges: tuple[tile.Range, ...], state: list[SSAValue], rest: bool
) -> list[SSAValue]:
    """A copy of ``loop`` over ``ranges``, starting from ``state``; full ones lose their masks.

    ``rest`` marks a loop over what the loop before it, over the same keys, leaves: its masks hold there, too.
    """
    body = loop.body.clone()
    attributes: dict[str, object] = dict(loop.attributes)
    if kind == "full":
        for name in ("strips", "strip", "unmasked"):
            attributes.pop(name, None)
        for mask in [o for o in body.block.ops if isinstance(o, tile.MaskOp)]:
            mask.result.replace_all_uses_with(mask.input)
            Rewriter.erase_op(mask)
    if rest:
        attributes["rest"] = UnitAttr()
    copy = tile.ForOp(loop.axis.data, kind, loop.step.data, ranges, state, body, attributes)  # type: ignore[arg-type]
    block = loop.parent_block()
    assert block is not None
    Rewriter.insert_op(copy, InsertPoint.before(loop))
    for new, old in zip(copy.results_, loop.results_, strict=True):
        new.name_hint = old.name_hint
    return list(copy.results_)
