"""Contraction over the axis in the lanes, added to memory: ``dq[i, d] += sum over j of ds[i, j] * k[j, d]``.

One operand is in scratch with its rows ``j`` in the lanes and is read as broadcast scalars; the other is read
from memory, features ``d`` in the lanes.  So nothing is transposed, and sums stay in registers until they are
added to memory.
"""

from __future__ import annotations

from ...ir.tile import DotOp
from .builder import ELEMENT_BYTES, Val
from .errors import UnsupportedKernelError
from .frame import Frame, KeyView
from .memory import Memory
from .plan import axes, row_dot
from .positions import tabulate
from .transfers import Transfers


class RowDotEmitter:
    """Emits one such dot with its store."""

    def __init__(self, frame: Frame, dot: DotOp):
        self.f, self.b = frame, frame.b
        self.source, natural, self.store = row_dot(dot)
        self.view: KeyView = frame.views[natural]
        self.memory: Memory = frame.memories[self.store.memory]
        (self.axis,) = (a for a in axes(self.source) if a != frame.rows)
        self.size = axes(self.source)[self.axis]
        if self.view.axes[0] != frame.rows or self.source not in frame.buffers.of:
            raise UnsupportedKernelError(f"{dot}: contracts rows of {axes(self.source)} and {self.view.axes}")
        self.feature = self.view.axes[1]

    def emit(self) -> None:
        vectors = -(-self.view.width // self.f.lanes)
        groups = -(-vectors // self.f.target.block_vectors)
        wide = -(-vectors // groups)
        height = max(1, min(self.f.target.accumulators // wide, 8))
        tabulate(self.f, self.store.index.data, self.axis, self.size, [self.feature])
        count = self.f.spans[self.axis].count if self.axis in self.f.spans else self.size
        last = self.b.sub(count, 1) if isinstance(count, Val) else self.b.integer(count - 1)
        self._clear_dead()
        with self.b.loop(0, count, height, hint=self.axis) as loop:
            rows = [self.b.add(loop.iv, r) for r in range(height)]
            for vector in range(0, vectors, wide):
                self._block(rows, last, range(vector, min(vector + wide, vectors)))

    def _strips(self) -> list[tuple[int, int, Val, Val]]:
        """First lane and end of each strip, and the rows that are live there."""
        f = self.f
        if f.strips is None:
            return []
        height = f.strips.height
        found = [(n, n + height, f.live_part(self.axis, f.b.integer(n))) for n in range(0, f.row_width, height)]
        return [(lane, end, *live) for lane, end, live in found if live is not None]

    def _clear_dead(self) -> None:
        """Write zeros where no row of a strip sees anything and nothing was computed."""
        f, b, zero = self.f, self.b, self.b.real(0.0, self.f.vector)
        for lane, stop, low, high in self._strips():
            dead: list[tuple[Val | int, Val | int]] = [(0, low), (high, f.spans[self.axis].count)]
            for first, end in dead:
                with b.loop(first, end, hint=self.axis) as row:
                    for n in range(lane, min(stop, f.row_width), f.lanes):
                        b.store(zero, f.row_pointer(self.source, row.iv, b.integer(n)), f.align)

    def _lanes(self, first: Val, height: int) -> tuple[Val | int, Val | int]:
        """The lanes that some of ``height`` rows may need."""
        b, strips, count = self.b, self._strips(), self.f.spans[self.f.rows].count
        if not strips:
            return 0, count
        assert isinstance(count, Val)
        low, high = count, b.integer(0)
        for lane, stop, start, end in strips:
            seen = b.binary("andi", b.less(start, b.add(first, height)), b.less(first, end))
            low = b.select(seen, b.least(low, lane), low)
            high = b.select(seen, b.integer(stop), high)
        return low, b.least(high, count)

    def _block(self, rows: list[Val], last: Val, vectors: range) -> None:
        """The sums of these rows and vectors of features; rows beyond the last are computed and dropped."""
        f, b = self.f, self.b
        transfers = Transfers(f)
        stride = transfers.stride(self.memory, self.store.index.data, self.feature)
        if stride is None:
            raise UnsupportedKernelError(f"{self.store}: the index must be affine in {self.feature!r}")
        start = f.spans[self.axis].start if self.axis in f.spans else b.integer(0)
        row_of = [row if n == 0 else b.least(row, last) for n, row in enumerate(rows)]
        pointers = [f.row_pointer(self.source, row, b.integer(0)) for row in row_of]
        places = [self._place(transfers, b.add(start, row), vectors[0]) for row in row_of]
        line = 64 // ELEMENT_BYTES[self.memory.stored]
        for place in places:  # what the sums are added to arrives while they are computed
            for n in range(0, min(self.view.width - vectors[0] * f.lanes, len(vectors) * f.lanes), line):
                b.prefetch(b.at(place, n, self.memory.stored), write=True)
        zero = b.real(0.0, f.vector)
        with b.loop(*self._lanes(rows[0], len(rows)), 1, [zero] * (len(rows) * len(vectors)), hint=f.rows) as loop:
            features = [self._features(loop.iv, n) for n in vectors]
            for r, pointer in enumerate(pointers):
                scalar = b.broadcast(b.load(b.at(pointer, loop.iv, f.element), f.element), f.lanes)
                sums = loop.carried[r * len(vectors) :]
                loop.yields += [b.fma(scalar, x, acc) for x, acc in zip(features, sums, strict=False)]
        for r, (row, place) in enumerate(zip(rows, places, strict=True)):
            sums = loop.results[r * len(vectors) :][: len(vectors)]
            with b.when(b.cmpi("sle", row, last)):
                with b.when(b.cmpi("eq", stride, b.integer(1))):
                    for n, (vector, value) in enumerate(zip(vectors, sums, strict=True)):
                        transfers.put(
                            self.store, b.at(place, n * f.lanes, self.memory.stored), value, self._mask(vector)
                        )
                with b.otherwise():
                    self._add_scalars(transfers, place, stride, sums, vectors)

    def _place(self, transfers: Transfers, row: Val, vector: int) -> Val:
        """Where the gradient of a row is, from a vector of features on."""
        at = {self.axis: row, self.feature: self.b.integer(vector * self.f.lanes)}
        return transfers.address(self.memory, self.store.index.data, **at)

    def _features(self, row: Val, vector: int) -> Val:
        """One vector of a row of the operand in memory."""
        f, b, view = self.f, self.b, self.view
        pointer = b.at(b.at(view.pointer, b.mul(row, view.stride), f.element), vector * f.lanes, f.element)
        mask = self._mask(vector)
        return b.load(pointer, f.vector) if mask is None else b.masked_load(pointer, mask, f.vector)

    def _mask(self, vector: int) -> Val | None:
        left = self.view.width - vector * self.f.lanes
        return self.b.mask_first(left, self.f.lanes) if left < self.f.lanes else None

    def _add_scalars(self, transfers: Transfers, place: Val, stride: Val, sums: list[Val], vectors: range) -> None:
        """Add the sums of a row to memory whose features are apart."""
        f, b = self.f, self.b
        for n, (vector, value) in enumerate(zip(vectors, sums, strict=True)):
            mask = self._mask(vector) or b.boolean(True, f.lanes)
            transfers.put_strided(
                self.store, b.at(place, b.mul(stride, n * f.lanes), self.memory.stored), value, stride, mask
            )
