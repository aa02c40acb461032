"""Strips of a tile: what a key loop computes on matrix registers stays in the level-1 cache.

Values are packed once for a tile of queries, which is therefore tall; the scores of so many rows would go to memory and
back between every two passes.  Where rows do not meet in the body of a loop, its steps run for one strip of rows after
the other instead, and scratch of the body holds one strip.
"""

from __future__ import annotations

from dataclasses import replace

from xdsl.dialects.builtin import ArrayAttr

from ...ir.tile import DotOp, ForOp, RangeAttr, ReduceOp
from .amx import TILE_BYTES
from .buffers import Buffers
from .builder import Builder, Val
from .frame import Frame, Span, TileView
from .plan import BlockPlan, Pass, axes, contracts_rows
from .tiles import SIDE, Tiles, padded


def is_striped(plan: BlockPlan, rows: str, tiles: Tiles) -> bool:
    """Is the body of a loop, planned so, the same for each strip of rows?"""
    return bool(tiles.dots) and not plan.bodies and all(_by_row(step, rows) for step in plan.steps)


def _by_row(step: object, rows: str) -> bool:
    if isinstance(step, Pass):
        return not any(isinstance(op, ReduceOp) and op.axis == rows for op in step.ops)
    return isinstance(step, DotOp) and not contracts_rows(step, rows)


def set_pitches(buffers: Buffers, plan: BlockPlan, lanes: int, width: int, tiles: Tiles) -> None:
    """Distances of the rows of buffers; ``width`` is a row of a whole tile."""
    # matrix registers read a few lanes of many rows: an odd number of cache lines spreads these over the cache
    pitch = width + (lanes if tiles.dots else 0)
    striped = {loop for loop, body in plan.bodies.items() if is_striped(body, buffers.axis, tiles)}
    whole = {n for value, n in buffers.of.items() if value.owner.parent_op() not in striped}
    buffers.pitches = [pitch if n in whole else SIDE for n in range(len(buffers.rows))]


def strip(frame: Frame, first: Val) -> Frame:
    """The frame of the rows from ``first`` on, as many as there are in a strip."""
    b, rows, buffers = frame.b, frame.spans[frame.rows], frame.buffers
    assert isinstance(rows.count, Val)
    span = Span(b.add(rows.start, first), b.least(b.sub(rows.count, first), SIDE))
    # what outlives the body has room for all rows; only that has a longer pitch
    scratch = [
        b.at(pointer, first, frame.element) if pitch > SIDE else pointer
        for pointer, pitch in zip(frame.scratch, buffers.pitches, strict=True)
    ]
    inner = frame.inside({frame.rows: span})
    return replace(inner, vectors=SIDE // frame.lanes, scratch=scratch)


def live_keys(frame: Frame, op: ForOp, plan: BlockPlan) -> Span | None:
    """Of the keys of a step, those that some row of a strip may see, from a whole block on; None for all of them.

    The pass ``key-ranges`` wrote them down in terms of the strip's first row.
    """
    ranges = op.attributes.get("strips")
    if not isinstance(ranges, ArrayAttr) or plan.key_loads or plan.pair_loads:
        return None
    b, step = frame.b, frame.spans[op.axis.data]
    assert isinstance(step.count, Val)
    scope = frame.scalar_scope({frame.rows: frame.spans[frame.rows].start})
    low, high = step.count, b.integer(0)
    for r in (r.data for r in ranges if isinstance(r, RangeAttr)):
        lo, hi = (
            b.most(b.least(b.sub(frame.expressions.scalar(e, scope), step.start), step.count), 0) for e in (r.lo, r.hi)
        )
        some = b.less(lo, hi)
        low, high = b.select(some, b.least(low, lo), low), b.select(some, b.most(high, hi), high)
    low = b.binary("andi", b.least(low, high), b.integer(-SIDE))
    return Span(low, b.sub(high, low))


def unmasked_keys(frame: Frame, op: ForOp, keys: Span) -> Span | None:
    """Of the ``keys`` of a strip, those that all of its rows see, counted from the first of the strip, in pairs; None
    where that is not known."""
    found = op.attributes.get("unmasked")
    if not isinstance(found, RangeAttr):
        return None
    b, step = frame.b, frame.spans[op.axis.data]
    assert isinstance(keys.count, Val)
    scope = frame.scalar_scope({frame.rows: frame.spans[frame.rows].start})
    first = b.add(step.start, keys.start)
    low, high = (b.sub(frame.expressions.scalar(e, scope), first) for e in (found.data.lo, found.data.hi))
    low = b.most(b.least(b.binary("andi", b.add(low, 1), b.integer(-2)), keys.count), 0)
    high = b.most(b.binary("andi", b.least(high, keys.count), b.integer(-2)), low)
    return Span(low, b.sub(high, low))


def only_keys(frame: Frame, op: ForOp, keys: Span) -> Frame:
    """The frame of the ``keys`` of a step, which are counted from its first."""
    b, axis = frame.b, op.axis.data
    inner = frame.inside({axis: Span(b.add(frame.spans[axis].start, keys.start), keys.count)})
    for (value, kind), view in frame.tile_views.items():
        if axis in axes(value):
            inner.tile_views[value, kind] = _below(b, view, kind, keys.start)
    return inner


def _below(b: Builder, view: TileView, kind: str, row: Val) -> TileView:
    """The view of an operand from ``row``, the first of a block, on."""
    each = TILE_BYTES // SIDE if kind == "sum" else padded(view.width) * 2
    return replace(
        view,
        in_place=b.sub(view.in_place, row),
        pointer=b.at(view.pointer, b.mul(row, view.stride), "i8"),
        packed=b.at(view.packed, b.mul(row, each), "i8"),
    )
