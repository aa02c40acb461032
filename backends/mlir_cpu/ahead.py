"""What the next task reads and writes is asked for while this one computes.

A narrow mask leaves few pairs to a row, so that memory takes about as long as arithmetic, and rows with gaps are not
what hardware foresees.  Asked for all at once they would make the thread wait, for a core keeps track of a dozen lines
at a time.  So a task lists the rows of the next one, and passes over pairs take a few from the list at every turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.expr import ONE, ZERO
from ...ir.tile import ForOp, KernelOp, LoadOp, Range, StoreOp
from .builder import ELEMENT_BYTES, PTR, Builder, Val
from .frame import Frame, Span
from .memory import coefficient
from .plan import axes

LINE = 64
MOST_ROWS = 1 << 10  # of one tensor, for one task
AT_ONCE = 2  # rows that are asked for at every turn


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


def wanted(kernel: KernelOp) -> list[Wanted]:
    """What a kernel asks for: nothing unless rows have gaps and every step of its loops has a mask, so that a row meets
    few others."""
    rows, ops = kernel.rows.data, list(kernel.body.block.ops)
    loops = [op for op in ops if isinstance(op, ForOp)]
    if kernel.sequential.data or not loops or any(op.kind.data == "full" or "rest" in op.attributes for op in loops):
        return []
    found = [Wanted(op, rows.name, (), rows.size) for op in ops if isinstance(op, LoadOp)]
    for loop in loops:
        inner = [op for op in loop.body.block.ops if isinstance(op, LoadOp)]
        found += [Wanted(op, loop.axis.data, tuple(loop.range_list), MOST_ROWS) for op in inner]
    found += [Wanted(op, rows.name, (), rows.size) for op in ops if isinstance(op, StoreOp) and op.add is None]
    found = [w for w in found if _has_rows(w)]
    return found if any(_has_gaps(w) for w in found) else []


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

    def __init__(self, b: Builder, rows: Sequence[Wanted]):
        self.rows, self.lines = rows, 0  # lines of a row
        size = sum(w.most for w in rows) + AT_ONCE
        self.list, self.cursor = b.room(size * ELEMENT_BYTES[PTR], "ahead"), b.room(2 * ELEMENT_BYTES["i64"], "asked")

    def fill(self, frame: Frame, tile: Span) -> None:
        """List the rows of the task that ``frame`` names, whose tile is ``tile``."""
        b, x, end = frame.b, frame.expressions, frame.b.integer(0)
        for w in self.rows:
            memory, (feature, width) = frame.memories[w.op.memory], w.feature
            self.lines = max(self.lines, -(-width * ELEMENT_BYTES[memory.stored] // LINE))
            span = self._walked(frame, w) if w.ranges else tile
            assert isinstance(span.count, Val)
            count = b.most(span.count, 0)
            with b.loop(0, count, hint=w.axis) as row:
                scope = frame.scalar_scope({w.axis: b.add(span.start, row.iv), feature: b.integer(0)})
                place = memory.address(b, [x.scalar(e, scope) for e in w.op.index.data])
                b.store(place, b.at(self.list, b.add(end, row.iv), PTR))
            end = b.add(end, count)
        for n in range(AT_ONCE):  # there is always something to ask for
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
        for n in range(AT_ONCE):
            row = b.load(b.at(self.list, b.add(at, n), PTR), PTR)
            for line in range(self.lines):
                b.prefetch(b.at(row, line * LINE, "i8"))
        b.store(b.least(b.add(at, AT_ONCE), total), self.cursor)
