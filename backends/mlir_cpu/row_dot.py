"""Contraction over the axis in the lanes, added to memory: ``dq[i, d] += sum over j of ds[i, j] * k[j, d]``.

One operand is in scratch with its rows ``j`` in the lanes and is read as broadcast scalars; the other is read
from memory, features ``d`` in the lanes.  So nothing is transposed, and sums stay in registers until they are
added to memory.
"""

from __future__ import annotations

from ...ir.tile import DotOp
from .builder import Val
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
        whole: Val | int
        if isinstance(count, int):
            whole = count // height * height
        else:
            whole = self.b.mul(self.b.binary("divui", count, self.b.integer(height)), height)
        for first, end, rows in ((0, whole, height), (whole, count, 1)):
            if first == end:
                continue
            with self.b.loop(first, end, rows, hint=self.axis) as loop:
                for vector in range(0, vectors, wide):
                    self._block(loop.iv, rows, range(vector, min(vector + wide, vectors)))

    def _block(self, row: Val, height: int, vectors: range) -> None:
        """The sums of ``height`` rows and these vectors of features."""
        f, b = self.f, self.b
        pointers = [f.row_pointer(self.source, b.add(row, r), b.integer(0)) for r in range(height)]
        zero = b.real(0.0, f.vector)
        with b.loop(0, f.spans[f.rows].count, 1, [zero] * (height * len(vectors)), hint=f.rows) as loop:
            features = [self._features(loop.iv, n) for n in vectors]
            for r, pointer in enumerate(pointers):
                scalar = b.broadcast(b.load(b.at(pointer, loop.iv, f.element), f.element), f.lanes)
                sums = loop.carried[r * len(vectors) :]
                loop.yields += [b.fma(scalar, x, acc) for x, acc in zip(features, sums, strict=False)]
        transfers = Transfers(f)
        stride = transfers.stride(self.memory, self.store.index.data, self.feature)
        if stride is None:
            raise UnsupportedKernelError(f"{self.store}: the index must be affine in {self.feature!r}")
        start = f.spans[self.axis].start if self.axis in f.spans else b.integer(0)
        with b.when(b.cmpi("eq", stride, b.integer(1))):
            self._add(transfers, b.add(start, row), loop.results, vectors)
        with b.otherwise():
            self._add_scalars(transfers, b.add(start, row), loop.results, vectors)

    def _features(self, row: Val, vector: int) -> Val:
        """One vector of a row of the operand in memory."""
        f, b, view = self.f, self.b, self.view
        pointer = b.at(b.at(view.pointer, b.mul(row, view.stride), f.element), vector * f.lanes, f.element)
        mask = self._mask(vector)
        return b.load(pointer, f.vector) if mask is None else b.masked_load(pointer, mask, f.vector)

    def _mask(self, vector: int) -> Val | None:
        left = self.view.width - vector * self.f.lanes
        return self.b.mask_first(left, self.f.lanes) if left < self.f.lanes else None

    def _add(self, transfers: Transfers, row: Val, sums: list[Val], vectors: range) -> None:
        """Add a block to memory whose features are contiguous."""
        f, b = self.f, self.b
        for r in range(len(sums) // len(vectors)):
            at = {self.axis: b.add(row, r), self.feature: b.integer(0)}
            pointer = transfers.address(self.memory, self.store.index.data, **at)
            for n, vector in enumerate(vectors):
                place = b.at(pointer, vector * f.lanes, self.memory.stored)
                transfers.put(self.store, place, sums[r * len(vectors) + n], self._mask(vector))

    def _add_scalars(self, transfers: Transfers, row: Val, sums: list[Val], vectors: range) -> None:
        """The same element by element, by way of scratch."""
        f, b = self.f, self.b
        first, pitch = vectors[0] * f.lanes, len(vectors) * f.lanes
        width = min(self.view.width - first, pitch)
        block = b.room(len(sums) * f.target.vector_bytes, f"sums{len(sums)}")
        for n, value in enumerate(sums):
            b.store(value, b.at(block, n * f.lanes, f.element), f.align)
        with b.loop(0, len(sums) // len(vectors), hint=self.axis) as r, b.loop(0, width, hint=self.feature) as column:
            at = {self.axis: b.add(row, r.iv), self.feature: b.add(column.iv, first)}
            value = b.load(b.at(block, b.add(b.mul(r.iv, pitch), column.iv), f.element), f.element)
            transfers.put(self.store, transfers.address(self.memory, self.store.index.data, **at), value)
