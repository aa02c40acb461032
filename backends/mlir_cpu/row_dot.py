"""Sums in registers with features in the lanes: each term is a scalar, broadcast, times a row from memory.

A contraction over the axis in the lanes is such a sum: ``dq[i, d] += sum over j of ds[i, j] * k[j, d]``.  One operand
is in scratch with its rows ``j`` in the lanes and is read as scalars; the other is read from memory, features ``d`` in
the lanes.  So nothing is transposed, and sums stay in registers until they are added to memory.

A sum that a loop carries may be one, too: ``dv[j, e] += sum over i of p[i, j] * do[i, e]``.  With rows in the lanes,
the 49 tokens of a window take four vectors of 16, and a quarter of the products is for nobody; with features in the
lanes there are as many rows as tokens, and what the loop leaves behind goes to memory as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Operation, SSAValue

from ...ir.expr import Const, Expr, Op
from ...ir.tile import DotOp, ForOp, FullOp, KernelOp, LoadOp, StoreOp, YieldOp
from .builder import ELEMENT_BYTES, Val, vec
from .errors import UnsupportedKernelError
from .frame import Frame, KeyView
from .memory import Memory, coefficient
from .pairs import add_pairs
from .plan import axes, row_dot
from .positions import tabulate
from .tiles import Tiles, lane_operand, memory_operand
from .transfers import Transfers

WASTE = 8  # one lane of so many that has no row is worth another order


class _Sums:
    """Register blocks of such sums."""

    def __init__(self, frame: Frame, dot: DotOp, natural: SSAValue, axis: str, size: int):
        self.f, self.b = frame, frame.b
        self.pairs = dot in frame.tiles.pairs
        self.view: KeyView = (frame.row_pairs if self.pairs else frame.views)[natural]
        self.axis = axis  # of the rows of the result
        self.count = frame.spans[axis].count if axis in frame.spans else size
        self.last = self.b.sub(self.count, 1) if isinstance(self.count, Val) else self.b.integer(self.count - 1)
        self.size = frame.most(axis, size)

    def emit(self) -> None:
        vectors = -(-self.view.width // self.f.lanes)
        groups = -(-vectors // self.f.target.block_vectors)
        wide = -(-vectors // groups)
        height = max(1, min(self.f.target.accumulators // wide, 8))
        height = -(-self.size // -(-self.size // height))  # blocks of the same height, as far as that goes
        with self.b.loop(0, self.count, height, hint=self.axis) as loop:
            rows = [self.b.add(loop.iv, r) for r in range(height)]
            for vector in range(0, vectors, wide):
                self._block(rows, range(vector, min(vector + wide, vectors)))

    def _block(self, rows: list[Val], vectors: range) -> None:
        """The sums of these rows and vectors of features; rows beyond the last are computed and dropped."""
        raise NotImplementedError

    def _sums(self, scalars: Sequence[Val], step: int, terms: Val, vectors: range) -> list[Val]:
        """The sums of rows whose scalars lie ``step`` apart from where ``scalars`` point, vector by vector."""
        f, b, element = self.f, self.b, self.view.element
        if self.pairs:
            terms = b.binary("shrsi", b.add(terms, 1), b.integer(1))
        with b.loop(0, terms, 1, [b.real(0.0, f.vector)] * (len(scalars) * len(vectors)), hint="term") as loop:
            features = [self._features(loop.iv, n) for n in vectors]
            at = b.mul(loop.iv, step)
            for r, pointer in enumerate(scalars):
                scalar = b.broadcast(b.load(b.at(pointer, at, element), element), f.lanes)
                sums = loop.carried[r * len(vectors) :]
                multiply = self._multiply_pairs if self.pairs else b.fma
                loop.yields += [multiply(scalar, x, acc) for x, acc in zip(features, sums, strict=False)]
        return loop.results

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


class RowDotEmitter(_Sums):
    """Emits one contraction over the axis in the lanes with its store."""

    def __init__(self, frame: Frame, dot: DotOp):
        self.source, natural, self.store = row_dot(dot)
        (axis,) = (a for a in axes(self.source) if a != frame.rows)
        super().__init__(frame, dot, natural, axis, axes(self.source)[axis])
        self.memory: Memory = frame.memories[self.store.memory]
        if self.view.axes[0] != frame.rows or self.source not in frame.buffers.of:
            raise UnsupportedKernelError(f"{dot}: contracts rows of {axes(self.source)} and {self.view.axes}")
        self.feature = self.view.axes[1]
        tabulate(frame, self.store.index.data, axis, axes(self.source)[axis], [self.feature])

    def _block(self, rows: list[Val], vectors: range) -> None:
        f, b, last = self.f, self.b, self.last
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
        terms = f.spans[f.rows].count
        assert isinstance(terms, Val)
        results = self._sums(pointers, 1, terms, vectors)
        for r, (row, place) in enumerate(zip(rows, places, strict=True)):
            sums = results[r * len(vectors) :][: len(vectors)]
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

    def _add_scalars(self, transfers: Transfers, place: Val, stride: Val, sums: list[Val], vectors: range) -> None:
        """Add the sums of a row to memory whose features are apart."""
        f, b = self.f, self.b
        for n, (vector, value) in enumerate(zip(vectors, sums, strict=True)):
            mask = self._mask(vector) or b.boolean(True, f.lanes)
            transfers.put_strided(
                self.store, b.at(place, b.mul(stride, n * f.lanes), self.memory.stored), value, stride, mask
            )


class UprightDotEmitter(_Sums):
    """Emits one dot of :func:`upright`, which adds to what its loop carries."""

    def __init__(self, frame: Frame, dot: DotOp):
        rows = frame.rows
        super().__init__(frame, dot, memory_operand(dot, rows), rows, axes(dot.result)[rows])
        self.source, self.dot = lane_operand(dot, rows), dot

    def _block(self, rows: list[Val], vectors: range) -> None:
        f, b = self.f, self.b
        count = f.spans[self.dot.contracted].count
        scalars = [f.row_pointer(self.source, 0, b.least(row, self.last)) for row in rows]
        terms = count if isinstance(count, Val) else b.integer(count)
        sums = iter(self._sums(scalars, f.pitch(self.source), terms, vectors))
        for row in rows:
            with b.when(b.cmpi("sle", row, self.last)):
                for vector in vectors:
                    place = b.at(f.upright_row(self.dot.result, row), vector * f.lanes, f.element)
                    old = b.load(place, f.vector, f.align)
                    b.store(b.binary("addf", old, next(sums)), place, f.align)


def upright(kernel: KernelOp, lanes: int, tiles: Tiles) -> frozenset[SSAValue]:
    """The sums that loops carry with features in the lanes, as dots make them and as loops leave them behind."""
    rows, most = kernel.rows.data, most_rows(kernel)
    if tiles.dots or -most % rows.size * WASTE < most:
        return frozenset()
    found: list[SSAValue] = []
    for loop in (op for op in kernel.body.block.ops if isinstance(op, ForOp)):
        for n, (initial, argument, result) in enumerate(zip(loop.initial, loop.carried, loop.results_, strict=True)):
            match [use.operation for use in argument.uses]:
                case [DotOp() as dot] if dot.acc is argument and isinstance(initial.owner, FullOp):
                    carried = [(type(use.operation), use.index) for use in dot.result.uses] == [(YieldOp, n)]
                    readers = [use.operation for use in result.uses]
                    if carried and _may_be_upright(dot, readers, rows.name, lanes):
                        found += [dot.result, result]
    return frozenset(found)


def _may_be_upright(dot: DotOp, readers: Sequence[Operation], rows: str, lanes: int) -> bool:
    """Does it multiply a computed operand and rows of memory, and is the sum stored then?"""
    (row, _), (feature, width) = axes(dot.result).items()
    other = memory_operand(dot, rows)
    return (
        not isinstance(lane_operand(dot, rows).owner, LoadOp)
        and isinstance(other.owner, LoadOp)
        and [row, *axes(other)] == [rows, dot.contracted, feature]
        and width % lanes == 0
        and all(isinstance(op, StoreOp) and _has_stride(op, feature) for op in readers)
    )


def _has_stride(op: StoreOp, axis: str) -> bool:
    return all(coefficient(e, axis) is not None for e in op.index.data)


def most_rows(kernel: KernelOp) -> int:
    """How many rows there are in all tiles together, where that is known; those of a tile where it is not."""
    return _most(kernel.rows.data.bound) or kernel.rows.data.size


def _most(e: Expr) -> int:
    """The largest value of an expression that is a constant or nothing; 0 where that is not so."""
    match e:
        case Const(int(value)):
            return value
        case Op("where", (_, Const(int(value)), Const(0))):
            return value
    return 0
