"""Contraction over the axis in the lanes, added to memory: ``dq[i, d] += sum over j of ds[i, j] * k[j, d]``.

One operand is in scratch with its rows ``j`` in the lanes and is read as broadcast scalars; the other is read
from memory, features ``d`` in the lanes.  So nothing is transposed, and sums stay in registers until they are
added to memory.
"""

from __future__ import annotations

from ...ir.tile import DotOp
from .builder import ELEMENT_BYTES, Val, vec
from .errors import UnsupportedKernelError
from .frame import Frame, KeyView
from .memory import Memory
from .pairs import add_pairs
from .plan import axes, row_dot
from .positions import tabulate
from .transfers import Transfers


class RowDotEmitter:
    """Emits one such dot with its store."""

    def __init__(self, frame: Frame, dot: DotOp):
        self.f, self.b = frame, frame.b
        self.source, natural, self.store = row_dot(dot)
        self.pairs = dot in frame.tiles.pairs
        self.view: KeyView = (frame.row_pairs if self.pairs else frame.views)[natural]
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
        with self.b.loop(0, count, height, hint=self.axis) as loop:
            rows = [self.b.add(loop.iv, r) for r in range(height)]
            for vector in range(0, vectors, wide):
                self._block(rows, last, range(vector, min(vector + wide, vectors)))

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
        zero, element, terms = b.real(0.0, f.vector), self.view.element, f.spans[f.rows].count
        assert isinstance(terms, Val)
        if self.pairs:
            terms = b.binary("shrsi", b.add(terms, 1), b.integer(1))
        with b.loop(0, terms, 1, [zero] * (len(rows) * len(vectors)), hint=f.rows) as loop:
            features = [self._features(loop.iv, n) for n in vectors]
            for r, pointer in enumerate(pointers):
                scalar = b.broadcast(b.load(b.at(pointer, loop.iv, element), element), f.lanes)
                sums = loop.carried[r * len(vectors) :]
                multiply = self._multiply_pairs if self.pairs else b.fma
                loop.yields += [multiply(scalar, x, acc) for x, acc in zip(features, sums, strict=False)]
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
        mask, type = self._mask(vector), vec(f.lanes, view.element)
        return b.load(pointer, type) if mask is None else b.masked_load(pointer, mask, type)

    def _multiply_pairs(self, scalar: Val, x: Val, acc: Val) -> Val:
        b, halves = self.b, vec(2 * self.f.lanes, "bf16")
        return add_pairs(b, b.bitcast(scalar, halves), b.bitcast(x, halves), acc)

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
