"""Products of a tile with a band of rows, each pair with the one that its distance says: ``q[i] . r[i - j]``.

The rows that a tile of pairs reads are as many as it is wide and high together.  They are transposed into scratch,
feature by feature, so that the lanes of one tile row read neighbours: of key ``j`` the band from ``i0 - j`` on.  Both
products are then multiply-adds of vectors, and nothing is sheared.  What is added to the band, the gradient of its
rows, is summed along one diagonal after another, features in the lanes.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import SSAValue

from ...ir.distance import by_distance
from ...ir.expr import Expr
from ...ir.tile import BandAddOp, BandDotOp
from .builder import ELEMENT_BYTES, PTR, Val
from .errors import UnsupportedKernelError
from .frame import Frame
from .memory import Memory
from .plan import axes
from .transfers import Transfers

HEIGHT = 8  # rows of a register block


class Bands:
    """Emits one such op.  Along the band, ``p`` counts from the last element of the other axis and the first lane."""

    def __init__(self, frame: Frame, op: BandDotOp | BandAddOp):
        self.f, self.b, self.op = frame, frame.b, op
        self.pairs = op.pairs if isinstance(op, BandAddOp) else self._pairs(frame, op)
        self.index: Sequence[Expr] = op.index.data
        self.memory: Memory = frame.memories[op.memory]
        rest = [a for a in axes(self.pairs) if a != frame.rows]
        if frame.rows not in axes(self.pairs) or len(rest) != 1 or rest[0] not in frame.spans:
            raise UnsupportedKernelError(f"{op}: pairs are of the kernel's rows and of a loop's axis")
        self.other, self.size = rest[0], axes(self.pairs)[rest[0]]
        self.feature, self.width = next((a, n) for a, n in self._features(op).items() if a not in axes(self.pairs))
        if by_distance(self.index, frame.rows, self.other) is None:
            raise UnsupportedKernelError(f"{op}: which row a pair reads must depend on its distance")
        vectors = -(-(self.size + frame.row_width) // frame.lanes)
        self.pitch = (vectors + 1 - vectors % 2) * frame.lanes  # an odd number of lines spreads rows over the cache

    @staticmethod
    def _pairs(frame: Frame, op: BandDotOp) -> SSAValue:
        """The tile of pairs: the result, or what is summed along it."""
        return op.result if all(a in frame.spans for a in axes(op.result)) else op.lhs

    @staticmethod
    def _features(op: BandDotOp | BandAddOp) -> dict[str, int]:
        if isinstance(op, BandAddOp):
            return axes(op.lhs)
        return axes(op.lhs) | axes(op.result)

    def emit(self) -> None:
        if isinstance(self.op, BandAddOp):
            self._add(self.op)
        elif self.op.result is self.pairs:
            self._products(self.op)
        else:
            self._sums(self.op)

    def _count(self) -> Val:
        count = self.f.spans[self.other].count
        return count if isinstance(count, Val) else self.b.integer(count)

    def _live(self) -> Val:
        live = self.f.spans[self.f.rows].count
        assert isinstance(live, Val)
        return live

    # ---- the band in scratch ---------------------------------------------------------------------------

    def _band(self) -> Val:
        """The band, transposed; ops of one step that read the same one share it."""
        key = self.op.memory, tuple(self.index)
        if key not in self.f.bands:
            bytes_each = ELEMENT_BYTES[self.f.element]
            size = self.width * self.pitch * bytes_each
            room = self.b.room(size, f"band{len(self.f.bands)}_{size}")
            self._pack(room)
            self.f.bands[key] = room
        return self.f.bands[key]

    def _pack(self, room: Val) -> None:
        f, b = self.f, self.b
        transfers = Transfers(f)
        stride = transfers.stride(self.memory, self.index, self.feature)
        if stride is None:
            raise UnsupportedKernelError(f"{self.op}: the index must be affine in {self.feature!r}")
        first = b.binary("andi", b.sub(b.integer(self.size), self._count()), b.integer(-f.lanes))
        rows = b.room(f.lanes * ELEMENT_BYTES[PTR], "band_rows")
        with b.loop(first, self.pitch, f.lanes, hint="place") as place:
            with b.loop(0, f.lanes, hint="lane") as lane:
                address = self._address(b.add(place.iv, lane.iv))
                b.store(address, b.at(rows, lane.iv, PTR))
                with b.when(b.cmpi("ne", stride, b.integer(1))), b.loop(0, self.width, hint=self.feature) as d:
                    value = b.load(b.at(address, b.mul(d.iv, stride), self.memory.stored), self.memory.stored)
                    at = b.add(b.mul(d.iv, self.pitch), b.add(place.iv, lane.iv))
                    b.store(f.expressions.as_float(value), b.at(room, at, f.element))
            with b.when(b.cmpi("eq", stride, b.integer(1))):

                def block(first: Val, count: int) -> None:
                    target = b.at(b.at(room, b.mul(first, self.pitch), f.element), place.iv, f.element)
                    name = f"band_{self.memory.stored}_{count}_{self.pitch}"
                    f.call(name, [rows, first, target], lambda inner, args: _transpose(inner, self, count, *args))

                transfers.blocks(self.width, block)

    def _address(self, place: Val) -> Val:
        """Where the row of one place of the band starts; of some row, for pairs that are masked."""
        b = self.b
        less = b.sub(place, self.size - 1)
        lane, other = b.most(less, 0), b.most(b.sub(b.integer(0), less), 0)
        index = [self.memory.inside(b, n, x) for n, x in enumerate(self._at(lane, other))]
        return self.memory.address(b, index)

    def _at(self, lane: Val, other: Val) -> list[Val]:
        """The index of feature 0 of the row of a pair, by its place in the tile."""
        f, b = self.f, self.b
        at = {f.rows: b.add(f.spans[f.rows].start, lane), self.other: b.add(f.spans[self.other].start, other)}
        scope = f.scalar_scope({**at, self.feature: b.integer(0)})
        return [f.expressions.as_int(f.expressions.scalar(e, scope), 64) for e in self.index]

    def _row(self, band: Val, feature: Val | int, other: Val, lane: Val) -> Val:
        """The elements of the band that a vector of lanes meets in one row of the tile."""
        b, f = self.b, self.f
        at = b.add(b.sub(b.integer(self.size - 1), other), lane)
        start = b.at(band, b.mul(feature, self.pitch), f.element)
        return b.load(b.at(start, at, f.element), f.vector)

    # ---- products ---------------------------------------------------------------------------------------

    def _products(self, op: BandDotOp) -> None:
        """``sum over features of lhs * band`` for every pair."""
        f, b, band, count = self.f, self.b, self._band(), self._count()
        wide = 2 if f.vectors % 2 == 0 else 1
        last = b.sub(count, 1)
        zero = b.real(0.0, f.vector)
        in_lanes = f.rows in axes(op.lhs)
        with b.loop(0, self._live(), f.lanes * wide, hint="lane") as lane, b.loop(0, count, HEIGHT, hint="row") as row:
            rows = [row.iv, *(b.least(b.add(row.iv, r), last) for r in range(1, HEIGHT))]
            lanes = [b.add(lane.iv, n * f.lanes) for n in range(wide)]
            with b.loop(0, self.width, 1, [zero] * (HEIGHT * wide), hint=self.feature) as d:
                left = [b.load(f.row_pointer(op.lhs, d.iv, x), f.vector, f.align) for x in lanes] if in_lanes else []
                for r, at in enumerate(rows):
                    scalar = left or [self._scalar(op.lhs, at, d.iv)] * wide
                    for n, x in enumerate(lanes):
                        d.yields.append(b.fma(scalar[n], self._row(band, d.iv, at, x), d.carried[r * wide + n]))
            for r, at in enumerate(rows):
                for n, x in enumerate(lanes):
                    value = d.results[r * wide + n]
                    if op.acc is not None:
                        value = b.binary("addf", b.load(f.row_pointer(op.acc, at, x), f.vector, f.align), value)
                    b.store(value, f.row_pointer(op.result, at, x), f.align)

    def _scalar(self, lhs: SSAValue, row: Val, feature: Val) -> Val:
        """An element of an operand with features in the lanes, in all lanes."""
        b, view = self.b, self.f.views[lhs]
        pointer = b.at(b.at(view.pointer, b.mul(row, view.stride), view.element), feature, view.element)
        return b.broadcast(b.load(pointer, view.element), self.f.lanes)

    def _sums(self, op: BandDotOp) -> None:
        """``acc + sum over the other axis of pairs * band`` for every lane and feature."""
        f, b, band = self.f, self.b, self._band()
        if f.rows not in axes(op.result):
            raise UnsupportedKernelError(f"{op}: sums stay with the kernel's rows")
        zero = b.real(0.0, f.vector)
        with (
            b.loop(0, self._live(), f.lanes, hint="lane") as lane,
            b.loop(0, self.width, HEIGHT, hint=self.feature) as feature,
        ):
            features = [feature.iv]
            features += [b.least(b.add(feature.iv, n), self.width - 1) for n in range(1, HEIGHT)]
            with b.loop(0, self._count(), 1, [zero] * HEIGHT, hint=self.other) as other:
                pair = b.load(f.row_pointer(self.pairs, other.iv, lane.iv), f.vector, f.align)
                for n, d in enumerate(features):
                    other.yields.append(b.fma(pair, self._row(band, d, other.iv, lane.iv), other.carried[n]))
            sums = list(other.results)
            if op.acc is not None:
                old = [b.load(f.row_pointer(op.acc, d, lane.iv), f.vector, f.align) for d in features]
                sums = [b.binary("addf", x, y) for x, y in zip(old, sums, strict=True)]
            for d, value in zip(features, sums, strict=True):
                b.store(value, f.row_pointer(op.result, d, lane.iv), f.align)

    # ---- what is added to the band ----------------------------------------------------------------------

    def _add(self, op: BandAddOp) -> None:
        f, b, view = self.f, self.b, self.f.views[op.lhs]
        if view.axes[0] != f.rows:
            raise UnsupportedKernelError(f"{op}: the other operand has the kernel's rows")
        live, count = self._live(), self._count()
        transfers = Transfers(f)
        stride = transfers.stride(self.memory, self.index, self.feature)
        if stride is None:
            raise UnsupportedKernelError(f"{op}: the index must be affine in {self.feature!r}")
        vectors = -(-self.width // f.lanes)
        with b.loop(b.sub(b.integer(1), count), live, hint="distance") as loop:
            less = loop.iv
            lane, other = b.most(less, 0), b.most(b.sub(b.integer(0), less), 0)
            index = self._at(lane, other)
            with b.when(transfers.inside(self.memory, index)):
                place = self.memory.address(b, index)
                end = b.least(live, b.add(count, less))
                for first in range(0, vectors, HEIGHT):
                    group = range(first, min(first + HEIGHT, vectors))
                    sums = self._diagonal(op, less, lane, end, group)
                    self._put(transfers, place, stride, sums, group)

    def _diagonal(self, op: BandAddOp, less: Val, first: Val, end: Val, vectors: range) -> list[Val]:
        """The sums of one distance over the rows from ``first`` to ``end``; two at a time, for latency."""
        b, f, view = self.b, self.f, self.f.views[op.lhs]
        zero = b.real(0.0, f.vector)
        pairs = f.row_pointer(self.pairs, b.integer(0), b.integer(0))

        def terms(row: Val, sums: Sequence[Val]) -> list[Val]:
            at = b.add(b.mul(b.sub(row, less), f.pitch(self.pairs)), row)
            pair = b.broadcast(b.load(b.at(pairs, at, f.element), f.element), f.lanes)
            start = b.at(view.pointer, b.mul(row, view.stride), view.element)
            return [
                b.fma(pair, self._left(b.at(start, n * f.lanes, view.element), n), x)
                for n, x in zip(vectors, sums, strict=True)
            ]

        turns = 2 if len(vectors) < HEIGHT else 1
        whole = b.add(first, b.mul(b.binary("divsi", b.sub(end, first), b.integer(turns)), turns))
        with b.loop(first, whole, turns, [zero] * (len(vectors) * turns), hint=f.rows) as loop:
            for turn in range(turns):
                mine = loop.carried[turn * len(vectors) : (turn + 1) * len(vectors)]
                loop.yields += terms(b.add(loop.iv, turn), mine)
        sums = loop.results[: len(vectors)]
        if turns == 1:
            return sums
        sums = [b.binary("addf", x, y) for x, y in zip(sums, loop.results[len(vectors) :], strict=True)]
        with b.loop(whole, end, 1, sums, hint=f.rows) as rest:
            rest.yields += terms(rest.iv, rest.carried)
        return rest.results

    def _left(self, pointer: Val, vector: int) -> Val:
        mask = self._mask(vector)
        return self.b.load(pointer, self.f.vector) if mask is None else self.b.masked_load(pointer, mask, self.f.vector)

    def _mask(self, vector: int) -> Val | None:
        left = self.width - vector * self.f.lanes
        return self.b.mask_first(left, self.f.lanes) if left < self.f.lanes else None

    def _put(self, transfers: Transfers, place: Val, stride: Val, sums: Sequence[Val], vectors: range) -> None:
        b, f = self.b, self.f
        with b.when(b.cmpi("eq", stride, b.integer(1))):
            for n, value in zip(vectors, sums, strict=True):
                at = b.at(place, n * f.lanes, self.memory.stored)
                transfers.put_in(self.memory, at, value, self._mask(n), add=True)
        with b.otherwise():
            for n, value in zip(vectors, sums, strict=True):
                at = b.at(place, b.mul(stride, n * f.lanes), self.memory.stored)
                mask = self._mask(n) or b.boolean(True, f.lanes)
                transfers.put_strided_in(self.memory, at, value, stride, mask, add=True)


def _transpose(f: Frame, bands: Bands, count: int, rows: Val, first: Val, target: Val) -> None:
    """``count`` features of a vector of rows, transposed into the band."""
    b, memory, transfers = f.b, bands.memory, Transfers(f)
    vectors = [
        transfers.widen(memory, b.at(b.load(b.at(rows, n, PTR), PTR), first, memory.stored), count)
        for n in range(f.lanes)
    ]
    for n, value in enumerate(transfers.transpose(vectors)[:count]):
        b.store(value, b.at(target, n * bands.pitch, f.element))
