"""Products of a register block: lane vectors of one operand times broadcast scalars of the other, which therefore may
have any row stride and is never packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ...ir.tile import DotOp
from .builder import ELEMENT_BYTES, Builder, Val, vec
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
        self.paired = self.view.element != frame.element

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
        block = len(rows) * len(lanes)
        products = partial(self._products, bases, to_term, lanes)
        if self.paired:
            # of an odd number of terms the last one's partner is zero on both sides
            pairs = (terms + 1) // 2 if isinstance(terms, int) else b.binary("shrsi", b.add(terms, 1), b.integer(1))
            return products(0, pairs, _parts(pairs, block), 1)
        if isinstance(terms, Val) or (axis in f.spans and terms > SPAN):
            with b.loop(0, terms, SPAN, [b.real(0.0, f.vector)] * block, hint="span") as loop:
                sums = products(loop.iv, b.least(b.add(loop.iv, SPAN), terms), 1, 1)
                loop.yields = [b.binary("addf", x, y) for x, y in zip(loop.carried, sums, strict=True)]
            return loop.results
        # a block too small to hide the latency of fma is summed in parts, term by term in turn; others all alike, so
        # that a gradient has the scores of the forward to the last bit
        parts = _parts(terms, block)
        return products(0, terms, parts, 2 if parts == 1 and terms % 2 == 0 else 1)  # half as many jumps

    def _products(
        self, bases: list[Val], to_term: Val, lanes: list[Val], first: Val | int, end: Val | int, parts: int, turns: int
    ) -> list[Val]:
        """Sums over terms, or pairs, from ``first`` to ``end``, each of ``parts`` by itself, in unrolled ``turns``."""
        b, f = self.b, self.f
        block = len(bases) * len(lanes)
        hint = "pair" if self.paired else self.axis
        with b.loop(first, end, parts * turns, [b.real(0.0, f.vector)] * (block * parts), hint=hint) as loop:
            sums = list(loop.carried)
            for turn in range(parts * turns):
                term = b.add(loop.iv, turn)
                vectors = [self._vector(term, lane) for lane in lanes]
                offset = b.mul(term, to_term)
                for r, base in enumerate(bases):
                    scalar = self._scalar(base, offset)
                    for m, vector in enumerate(vectors):
                        n = turn % parts * block + r * len(lanes) + m
                        sums[n] = (add_pairs if self.paired else Builder.fma)(b, scalar, vector, sums[n])
            loop.yields = sums
        return self._joined(loop.results, block)

    def _vector(self, term: Val, lane: Val) -> Val:
        """Lanes of one term, or of the pair that one instruction multiplies and adds."""
        b, f = self.b, self.f
        pointer = f.row_pointer(self.source, term, lane)
        if not self.paired:
            return b.load(pointer, f.vector, f.align)
        return b.bitcast(b.load(pointer, vec(f.lanes, "i32"), f.align), vec(2 * f.lanes, "bf16"))

    def _scalar(self, base: Val, offset: Val) -> Val:
        """The other operand of it, for all lanes."""
        b, f = self.b, self.f
        if not self.paired:
            return b.broadcast(b.load(b.at(base, offset, f.element), f.element), f.lanes)
        pair = b.load(b.at(base, offset, "i32"), "i32", 2)
        return b.bitcast(b.broadcast(pair, f.lanes), vec(2 * f.lanes, "bf16"))

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
