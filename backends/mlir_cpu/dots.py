"""Products of a register block: lane vectors of one operand times broadcast scalars of the other, which therefore may
have any row stride and is never packed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.tile import DotOp
from .builder import ELEMENT_BYTES, Val, vec
from .errors import UnsupportedKernelError
from .frame import Frame
from .pairs import add_pairs, is_paired, operands
from .plan import axes

IN_FLIGHT = 8  # sums that two ports for fma with a latency of four cycles work on
SPAN = 32  # terms that are added before the rest: a span costs as much as one term more
AHEAD = 2  # register blocks between a prefetch and the use of the same dot


class BlockDot:
    """Emits one dot, for a register block at a time."""

    def __init__(self, frame: Frame, dot: DotOp):
        self.f, self.b, self.axis = frame, frame.b, dot.contracted
        self.source, key = operands(dot, frame.rows)  # in the lanes, and broadcast
        views = frame.pair_views if frame.pairs and is_paired(dot, frame.rows) else frame.views
        if dot in frame.tiles.pairs:
            views = frame.row_pairs
        if frame.rows not in axes(self.source) or frame.rows in axes(key) or key not in views:
            raise UnsupportedKernelError(f"{dot}: one operand must have the row axis and the other come from memory")
        self.view = views[key]
        self.along_rows = self.view.axes[0] == self.axis

    def emit(self, rows: Sequence[Val], lanes: list[Val]) -> list[Val]:
        """Products for some tile rows: row-major, one vector for each of ``lanes``."""
        b, f, source, view, axis = self.b, self.f, self.source, self.view, self.axis
        to_row, to_term = (b.integer(1), view.stride) if self.along_rows else (view.stride, b.integer(1))
        if self.along_rows:
            base = b.at(view.pointer, rows[0], view.element)
            bases = [b.at(base, r, view.element) for r in range(len(rows))]
        else:
            bases = [b.at(view.pointer, b.mul(row, to_row), view.element) for row in rows]
            self._prefetch(rows[0], len(rows))
        terms = f.spans[axis].count if axis in f.spans else axes(source)[axis]
        if view.element != f.element:
            # of an odd number of terms the last one's partner is zero on both sides
            pairs = (terms + 1) // 2 if isinstance(terms, int) else b.binary("shrsi", b.add(terms, 1), b.integer(1))
            return self._pairs(bases, pairs, to_term, lanes)
        block = len(rows) * len(lanes)

        def products(first: Val | int, end: Val | int, parts: int, turns: int) -> list[Val]:
            """Sums over the terms from ``first`` to ``end``, each of ``parts`` by itself, in unrolled ``turns``."""
            zero = b.real(0.0, f.vector)
            with b.loop(first, end, parts * turns, [zero] * (block * parts), hint=axis) as loop:
                sums = list(loop.carried)
                for turn in range(parts * turns):
                    part = turn % parts
                    term = b.add(loop.iv, turn)
                    vectors = [b.load(f.row_pointer(source, term, lane), f.vector, f.align) for lane in lanes]
                    offset = b.mul(term, to_term)
                    for r in range(len(rows)):
                        scalar = b.broadcast(b.load(b.at(bases[r], offset, f.element), f.element), f.lanes)
                        for m, vector in enumerate(vectors):
                            n = part * block + r * len(lanes) + m
                            sums[n] = b.fma(scalar, vector, sums[n])
                loop.yields = sums
            return self._joined(loop.results, block)

        if isinstance(terms, Val) or (axis in f.spans and terms > SPAN):
            with b.loop(0, terms, SPAN, [b.real(0.0, f.vector)] * block, hint="span") as loop:
                sums = products(loop.iv, b.least(b.add(loop.iv, SPAN), terms), 1, 1)
                loop.yields = [b.binary("addf", x, y) for x, y in zip(loop.carried, sums, strict=True)]
            return loop.results
        # a block too small to hide the latency of fma is summed in parts, term by term in turn; others all alike, so
        # that a gradient has the scores of the forward to the last bit
        parts = _parts(terms, block)
        return products(0, terms, parts, 2 if parts == 1 and terms % 2 == 0 else 1)  # half as many jumps

    def _pairs(self, bases: list[Val], count: Val | int, to_pair: Val, lanes: list[Val]) -> list[Val]:
        """The same for ``count`` pairs of bf16, which one instruction multiplies and adds."""
        b, f = self.b, self.f
        pairs, halves = vec(f.lanes, "i32"), vec(2 * f.lanes, "bf16")
        block = len(bases) * len(lanes)
        parts = _parts(count, block)
        with b.loop(0, count, parts, [b.real(0.0, f.vector)] * (block * parts), hint="pair") as loop:
            for part in range(parts):
                place = b.add(loop.iv, part)
                vectors = [
                    b.bitcast(b.load(f.row_pointer(self.source, place, lane), pairs, f.align), halves) for lane in lanes
                ]
                offset = b.mul(place, to_pair)
                for r, base in enumerate(bases):
                    pair = b.load(b.at(base, offset, "i32"), "i32", 2)
                    scalar = b.bitcast(b.broadcast(pair, f.lanes), halves)
                    for m, vector in enumerate(vectors):
                        n = part * block + r * len(lanes) + m
                        loop.yields.append(add_pairs(b, scalar, vector, loop.carried[n]))
        return self._joined(loop.results, block)

    def _joined(self, sums: list[Val], block: int) -> list[Val]:
        """The sums of a block, from those of its parts."""
        total = sums[:block]
        for part in range(block, len(sums), block):
            total = [self.b.binary("addf", x, y) for x, y in zip(total, sums[part : part + block], strict=True)]
        return total

    def _prefetch(self, row: Val, height: int) -> None:
        """Ask for rows that are needed soon: hardware does not foresee strided ones, nor the start of a range.

        These are the rows of this dot a few blocks ahead, and the rows that a later dot of the block reads.  Rows
        without gaps are left to the hardware.
        """
        b = self.b
        for view in [*self.f.views.values(), *self.f.pair_views.values()]:
            line = 64 // ELEMENT_BYTES[view.element]
            if not view.in_place or view.axes[0] != self.view.axes[0]:
                continue
            ahead = AHEAD * height if view is self.view else 0
            with b.when(b.cmpi("ne", view.stride, b.integer(view.width))):
                first = b.add(row, ahead)
                with b.loop(first, b.add(first, height), hint="row") as later:
                    start = b.at(view.pointer, b.mul(later.iv, view.stride), view.element)
                    for n in range(0, view.width, line):
                        b.prefetch(b.at(start, n, view.element))


def _parts(terms: Val | int, block: int) -> int:
    """In how many sums a block of so many sums is added up: enough to hide a latency, all of as many terms."""
    parts = max(1, IN_FLIGHT // block)
    while parts > 1 and (isinstance(terms, Val) or terms % parts):
        parts -= 1
    return parts
