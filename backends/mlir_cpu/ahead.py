"""What the next task reads and writes is asked for while this one computes.

A narrow mask leaves few pairs to a row, and so does a small window, so that memory takes about as long as arithmetic,
and rows with gaps are not what hardware foresees.  Asked for all at once they would make the thread wait, for a core
keeps track of a dozen lines at a time.  So a task lists the rows of the next one, and passes over pairs take a few from
the list at every turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.expr import ONE, ZERO
from ...ir.tile import ForOp, KernelOp, LoadOp, Range, StoreOp
from .builder import ELEMENT_BYTES, PTR, Builder, Val
from .frame import Frame, Span
from .loops import one_range
from .memory import coefficient
from .plan import axes
from .positions import position, tabulate

LINE = 64
MOST_ROWS = 1 << 10  # of one tensor, for one task
FEW_ROWS = 1 << 7  # of a window
AT_ONCE = 4  # rows that are asked for at every turn
AT_ONCE_ON_TILES = 2  # the same on matrix registers, whose strips have more turns


@dataclass(frozen=True)
class Wanted:
    """Rows of one tensor: those of the tile, or those that a loop walks."""

    op: LoadOp | StoreOp
    axis: str
    ranges: tuple[Range, ...]  # none for those of the tile
    most: int  # rows of a task

    @property
    def feature(self) -> tuple[str, int]:
        found = axes(self.op.result if isinstance(self.op, LoadOp) else self.op.value)
        return next((a, n) for a, n in found.items() if a != self.axis)

    @property
    def is_scattered(self) -> bool:
        """Do rows lie at no constant distance, as in a window of an image?"""
        return any(coefficient(e, self.axis) is None for e in self.op.index.data)


def wanted(kernel: KernelOp, *, gaps: bool) -> list[Wanted]:
    """What a kernel asks for: the rows of windows; where ``gaps`` are worth it, those of a tensor whose rows have some,
    if every step of its loops has a mask, so that a row meets few others."""
    rows, ops = kernel.rows.data, list(kernel.body.block.ops)
    loops = [op for op in ops if isinstance(op, ForOp)]
    found = [Wanted(op, rows.name, (), rows.size) for op in ops if isinstance(op, LoadOp)]
    for loop in loops:
        inner = [op for op in loop.body.block.ops if isinstance(op, LoadOp)]
        found += [Wanted(op, loop.axis.data, tuple(loop.range_list), _walked(loop)) for op in inner]
    found += [Wanted(op, rows.name, (), rows.size) for op in ops if isinstance(op, StoreOp) and op.add is None]
    found = [w for w in found if _has_rows(w)]
    if any(w.is_scattered for w in found):
        return found if all(w.most <= FEW_ROWS for w in found) else []
    masked = loops and all(op.kind.data != "full" and "rest" not in op.attributes for op in loops)
    return found if gaps and masked and not kernel.sequential.data and any(_has_gaps(w) for w in found) else []


def _walked(loop: ForOp) -> int:
    """How many rows a loop walks, at most."""
    first, end = one_range(loop.range_list) or (0, MOST_ROWS)
    return min(end - first, MOST_ROWS)


def _has_gaps(w: Wanted) -> bool:
    """Do rows lie apart, whatever the strides of the tensor?"""
    steps = [coefficient(e, w.axis) for e in w.op.index.data]
    return None not in steps and any(step not in (ZERO, ONE) for step in steps)


def _has_rows(w: Wanted) -> bool:
    """Is it a tile of one row of features for each step of the axis?"""
    found = axes(w.op.result if isinstance(w.op, LoadOp) else w.op.value)
    return len(found) == 2 and w.axis in found


class Ahead:
    """The list of rows, in scratch: where each begins, and how many were asked for."""

    def __init__(self, b: Builder, rows: Sequence[Wanted], at_once: int):
        self.rows, self.at_once, self.lines = rows, at_once, 0  # lines of a row
        size = sum(w.most for w in rows) + self.at_once
        self.list, self.cursor = b.room(size * ELEMENT_BYTES[PTR], "ahead"), b.room(2 * ELEMENT_BYTES["i64"], "asked")

    def fill(self, frame: Frame, tile: Span) -> None:
        """List the rows of the task that ``frame`` names, whose tile is ``tile``."""
        b, x, end = frame.b, frame.expressions, frame.b.integer(0)
        frames: dict[tuple[str, tuple[Range, ...]], Frame] = {}
        for w in self.rows:
            memory, (feature, width) = frame.memories[w.op.memory], w.feature
            self.lines = max(self.lines, -(-width * ELEMENT_BYTES[memory.stored] // LINE))
            if (w.axis, w.ranges) not in frames:
                span = self._walked(frame, w) if w.ranges else tile
                assert isinstance(span.count, Val)
                span = Span(span.start, b.most(span.count, 0))
                frames[w.axis, w.ranges] = frame.inside({w.axis: span})
            inner = frames[w.axis, w.ranges]
            span, index = inner.spans[w.axis], w.op.index.data
            assert isinstance(span.count, Val)
            tabulate(inner, index, w.axis, w.most, [feature])
            with b.loop(0, span.count, hint=w.axis) as row:
                at = {w.axis: b.add(span.start, row.iv), feature: b.integer(0)}
                scope = inner.scalar_scope(at)
                place = memory.address(b, [position(inner, e, at) or x.scalar(e, scope) for e in index])
                b.store(place, b.at(self.list, b.add(end, row.iv), PTR))
            end = b.add(end, span.count)
        for n in range(self.at_once):  # there is always something to ask for
            b.store(self.list, b.at(self.list, b.add(end, n), PTR))
        b.store(b.integer(0), self.cursor)
        b.store(end, b.at(self.cursor, 1, "i64"))

    def _walked(self, frame: Frame, w: Wanted) -> Span:
        """From the first key that a loop walks to the last."""
        b, scope, scalar = frame.b, frame.scalar_scope(), frame.expressions.scalar
        low, high = b.integer(1 << 40), b.integer(0)
        for r in w.ranges:
            lo, hi = scalar(r.lo, scope), scalar(r.hi, scope)
            some = b.less(lo, hi)
            low, high = b.select(some, b.least(low, lo), low), b.select(some, b.most(high, hi), high)
        return Span(low, b.least(b.sub(high, low), w.most))

    def ask(self, b: Builder) -> None:
        """Ask for the next rows of the list."""
        total, at = b.load(b.at(self.cursor, 1, "i64"), "i64"), b.load(self.cursor, "i64")
        for n in range(self.at_once):
            row = b.load(b.at(self.list, b.add(at, n), PTR), PTR)
            for line in range(self.lines):
                b.prefetch(b.at(row, line * LINE, "i8"))
        b.store(b.least(b.add(at, self.at_once), total), self.cursor)
