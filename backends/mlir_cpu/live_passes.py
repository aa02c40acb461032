"""Passes of a loop whose masks leave few pairs: each strip of lanes looks at the rows that some lane of it sees.

Two strips beside each other share most of their rows.  These are computed in register blocks as wide as both, what
only one of them sees in blocks of its own: before and after.
"""

from __future__ import annotations

from contextlib import nullcontext

from .builder import Val
from .frame import Frame
from .passes import Part, PassEmitter
from .plan import Pass


class LivePassEmitter(PassEmitter):
    """Emits one :class:`Pass` in a frame with strips."""

    def __init__(self, frame: Frame, step: Pass):
        super().__init__(frame, step)
        assert frame.strips is not None
        self.each = frame.strips.height // frame.lanes
        self.along = frame.strips.axis

    def emit(self) -> None:
        dot = self.step.dot
        if self.along != self.axis and (dot is None or dot.contracted != self.along):
            super().emit()
            return
        self.comments()
        both = 2 * self.each
        fits = self.f.vectors % both == 0 and self.f.target.block(both)[0] == both
        if fits and dot is not None and (self.along == self.axis or not self.step.ops):
            self._pairs()
        else:
            self._shape(self.each)
            with self._lane_blocks() as lane:
                self._part(lane, *self._live(lane), more=False)

    def _pairs(self) -> None:
        b, height = self.b, self.each * self.f.lanes
        with self.b.loop(0, self.f.spans[self.f.rows].count, 2 * height, hint="lane") as loop:
            lane = loop.iv
            ends = [self._live(b.add(lane, n * height)) for n in range(2)]
            low, high = b.most(ends[0][0], ends[1][0]), b.least(ends[0][1], ends[1][1])
            self._shape(2 * self.each)
            self._part(lane, low, high, more=False)
            self._shape(self.each)
            with b.loop(0, 4, hint="side") as side:
                second, after = (b.cmpi("ne", b.binary("andi", side.iv, b.integer(n)), b.integer(0)) for n in (2, 1))
                first, end = (b.select(second, y, x) for x, y in zip(*ends, strict=True))
                middle = b.least(end, low)
                first = b.select(after, b.most(b.most(first, high), middle), first)
                end = b.select(after, end, middle)
                self._part(b.add(lane, b.select(second, b.integer(height), b.integer(0))), first, end, more=True)
        self.part = None

    def _live(self, lane: Val) -> tuple[Val, Val]:
        found = self.f.live_part(self.along, lane)
        assert found is not None
        return found

    def _part(self, lane: Val, first: Val, end: Val, *, more: bool) -> None:
        """The lanes from ``lane`` on, of the rows or terms from ``first`` to ``end``."""
        b = self.b
        before = self._live(b.add(lane, -self.each * self.f.lanes))[1]
        known = b.select(b.less(b.integer(0), lane), before, b.integer(0))
        self.part = Part(self.along, first, end, known, more)
        with self.b.when(self.b.less(first, end)) if more else nullcontext():
            lanes = [self.b.add(lane, n) for n in self.offsets]
            self._block(lanes, [self._row_values(x) for x in lanes])
