"""Moving tiles between the user's memory and scratch: query tiles are transposed, key tiles viewed or packed.

A store with ``add`` reads, adds and writes.  Elements that may collide are handled one after the other.
A square of lanes is transposed by a function of its own, so that a kernel holds the code once for each element type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from xdsl.ir import SSAValue

from ...ir.expr import Expr, free_vars
from ...ir.tile import LoadOp, StoreOp
from .builder import ELEMENT_BYTES, PTR, Val, vec
from .errors import UnsupportedKernelError
from .frame import Frame, KeyView, Span
from .memory import Memory, coefficient
from .pairs import keeps_pairs
from .passes import Chunk
from .plan import axes
from .positions import position, tabulate

MOST_UNROLLED = 4  # groups of features that take no loop


class Transfers:
    """Emits ``tile.load`` and ``tile.store``."""

    def __init__(self, frame: Frame):
        self.f, self.b = frame, frame.b

    # ---- shared ---------------------------------------------------------------------------------------

    def address(self, memory: Memory, index: Sequence[Expr], **at: Val) -> Val:
        """Pointer to one element, with axes given by global index."""
        x, scope = self.f.expressions, self.f.scalar_scope(at)
        return memory.address(self.b, [position(self.f, e, at) or x.scalar(e, scope) for e in index])

    def stride(self, memory: Memory, index: Sequence[Expr], axis: str) -> Val | None:
        """Elements from one index of ``axis`` to the next, where that is the same everywhere."""
        return memory.stride_along(self.f.expressions, index, axis, self.f.scalar_scope())

    def is_one(self, stride: Val | None) -> Val:
        return self.b.boolean(False) if stride is None else self.b.cmpi("eq", stride, self.b.integer(1))

    def widen(self, memory: Memory, pointer: Val, count: int) -> Val:
        """``count`` contiguous elements, converted, in a full vector; the rest is 0 and not read."""
        b, type = self.b, vec(self.f.lanes, memory.stored)
        if count < self.f.lanes:
            return self.f.expressions.as_float(b.masked_load(pointer, b.mask_first(count, self.f.lanes), type))
        return self.f.expressions.as_float(b.load(pointer, type))

    def put(self, op: StoreOp, pointer: Val, value: Val, mask: Val | None = None) -> None:
        """Write or add a scalar or contiguous elements, the lanes of ``mask`` only."""
        self.put_in(self.f.memories[op.memory], pointer, value, mask, add=op.add is not None)

    def put_in(self, memory: Memory, pointer: Val, value: Val, mask: Val | None = None, *, add: bool) -> None:
        """The same, for what is no store."""
        b = self.b
        if add:
            type = vec(value.lanes, memory.stored)
            old = b.load(pointer, type) if mask is None else b.masked_load(pointer, mask, type)
            value = self._sum(memory, old, value)
        value = self._narrow(memory, value)
        if mask is None:
            b.store(value, pointer)
        else:
            b.masked_store(value, pointer, mask)

    def put_strided(self, op: StoreOp, pointer: Val, values: Val, stride: Val, mask: Val) -> None:
        """Write or add lanes to elements ``stride`` apart."""
        self.put_strided_in(self.f.memories[op.memory], pointer, values, stride, mask, add=op.add is not None)

    def put_strided_in(self, memory: Memory, pointer: Val, values: Val, stride: Val, mask: Val, *, add: bool) -> None:
        """The same, for what is no store."""
        b = self.b
        steps = b.binary("muli", b.iota(vec(values.lanes, "i64")), b.broadcast(stride, values.lanes))
        pointers = b.at(pointer, steps, memory.stored)
        if add:
            old = b.gather(pointers, mask, vec(values.lanes, memory.stored))
            values = self._sum(memory, old, values)
        b.scatter(self._narrow(memory, values), pointers, mask)

    def _sum(self, memory: Memory, old: Val, value: Val) -> Val:
        """An element in memory plus a computed value, in the wider type of the two."""
        if memory.stored == "f64":
            return self.b.binary("addf", old, self._narrow(memory, value))
        return self.b.binary("addf", self.f.expressions.as_float(old), value)

    def _narrow(self, memory: Memory, value: Val) -> Val:
        """A computed value as the memory's element type."""
        if memory.stored == value.element:
            return value
        wide = {"f64": 8, "f32": 4}
        if memory.stored == "f64":
            return self.b.cast("extf", value, vec(value.lanes, "f64"))
        if memory.stored not in ("f32", "bf16", "f16") or value.element not in wide:
            raise UnsupportedKernelError(f"cannot store {value.element} to {memory.name!r} of {memory.element}")
        return self.f.expressions.math.narrow(value, memory.stored)

    def blocks(self, width: int, emit: Callable[[Val, int], None]) -> None:
        """Run ``emit(first, count)`` for features in groups of a lane vector: a loop if they are many, then what is
        left."""
        lanes = self.f.lanes
        whole = width // lanes * lanes
        if whole <= MOST_UNROLLED * lanes:
            for first in range(0, whole, lanes):
                emit(self.b.integer(first), lanes)
        else:
            with self.b.loop(0, whole, lanes, hint="feature") as loop:
                emit(loop.iv, lanes)
        if width > whole:
            emit(self.b.integer(whole), width - whole)

    # ---- tiles with features in the lanes --------------------------------------------------------------

    def view(self, op: LoadOp, scratch: Val, *, pairs: bool = False) -> KeyView:
        """A key tile: in place where it can be, else packed into ``scratch``; not converted for ``pairs``."""
        f, b, memory = self.f, self.b, self.f.memories[op.memory]
        (row_axis, _), (feature, width) = axes(op.result).items()
        index = op.index.data
        start = f.spans[row_axis].start if row_axis in f.spans else b.integer(0)
        tabulate(f, index, row_axis, axes(op.result)[row_axis], [feature])
        row_stride, feature_stride = (self.stride(memory, index, a) for a in (row_axis, feature))
        element = memory.stored if pairs else f.element
        in_place = memory.stored == element and row_stride is not None and feature_stride is not None
        contiguous = self.is_one(feature_stride)
        if not in_place:
            with b.when(contiguous):
                self._pack(op, memory, scratch, vectors=True)
            with b.otherwise():
                self._pack_other(op, memory, scratch, row_stride, convert=True)
            return KeyView(scratch, b.integer(self.packed_width(width)), (row_axis, feature), width, False, element)
        assert row_stride is not None
        with b.when(b.binary("xori", contiguous, b.boolean(True))):
            self._pack_other(op, memory, scratch, row_stride, convert=not pairs)
        base = self.address(memory, index, **{row_axis: start, feature: b.integer(0)})
        return KeyView(
            b.pure(f"arith.select {contiguous.ssa}, {base.ssa}, {scratch.ssa} : {PTR}", PTR, op.result.name_hint or ""),
            b.select(contiguous, row_stride, b.integer(self.packed_width(width))),
            (row_axis, feature),
            width,
            True,
            element,
        )

    def packed_width(self, width: int) -> int:
        return -(-width // self.f.lanes) * self.f.lanes

    def _pack(self, op: LoadOp, memory: Memory, scratch: Val, *, vectors: bool, convert: bool = True) -> None:
        f, b, x = self.f, self.b, self.f.expressions
        element = f.element if convert else memory.stored
        (row_axis, rows), (feature, width) = axes(op.result).items()
        span = f.spans.get(row_axis)
        start, count = (span.start, span.count) if span else (b.integer(0), rows)
        with b.loop(0, count, hint=row_axis) as row:
            target = b.at(scratch, b.mul(row.iv, self.packed_width(width)), element)
            at = {row_axis: b.add(start, row.iv)}
            if vectors:
                source = self.address(memory, op.index.data, **at, **{feature: b.integer(0)})

                def copy(first: Val, count: int) -> None:
                    value = self.widen(memory, b.at(source, first, memory.stored), count)
                    b.store(value, b.at(target, first, f.element), f.align)

                self.blocks(width, copy)
                return
            with b.loop(0, width, hint=feature) as column:
                source = self.address(memory, op.index.data, **at, **{feature: column.iv})
                value = b.load(source, memory.stored)
                b.store(x.as_float(value) if convert else value, b.at(target, column.iv, element))

    def _pack_other(self, op: LoadOp, memory: Memory, scratch: Val, row_stride: Val | None, *, convert: bool) -> None:
        """Rows whose features have gaps: squares are transposed where the rows have none among each other."""
        b = self.b
        if row_stride is None or not convert:
            self._pack(op, memory, scratch, vectors=False, convert=convert)
            return
        with b.when(self.is_one(row_stride)):
            self._pack_transposed(op, memory, scratch)
        with b.otherwise():
            self._pack(op, memory, scratch, vectors=False)

    def _pack_transposed(self, op: LoadOp, memory: Memory, scratch: Val) -> None:
        f, b = self.f, self.b
        (row_axis, rows), (feature, width) = axes(op.result).items()
        span = f.spans.get(row_axis, Span(b.integer(0), rows))
        live = span.count if isinstance(span.count, Val) else b.integer(span.count)
        pitch = self.packed_width(width)
        step = self.stride(memory, op.index.data, feature)
        assert step is not None
        with b.loop(0, live, f.lanes, hint=row_axis) as row:
            left = b.sub(live, row.iv)

            def block(first: Val, count: int) -> None:
                start = self.address(memory, op.index.data, **{row_axis: b.add(span.start, row.iv), feature: first})
                target = b.at(scratch, b.add(b.mul(row.iv, pitch), first), f.element)
                name = f"pack_{memory.stored}_{count}_{pitch}"
                f.call(
                    name, [start, step, target, left],
                    lambda inner, args: Transfers(inner).pack_block(memory, count, pitch, *args),
                )  # fmt: skip

            self.blocks(width, block)

    def pack_block(self, memory: Memory, count: int, pitch: int, start: Val, step: Val, target: Val, left: Val) -> None:
        """``count`` features, ``step`` apart, of a vector of rows of which ``left`` are live."""
        f, b = self.f, self.b
        live = b.mask_below(left, f.lanes)
        zero = b.real(0.0, f.vector)
        features = [
            f.expressions.as_float(
                b.masked_load(b.at(start, b.mul(step, n), memory.stored), live, vec(f.lanes, memory.stored))
            )
            for n in range(count)
        ]
        vectors = self.transpose([*features, *[zero] * (f.lanes - count)])
        last = b.sub(left, 1)
        for n in range(f.lanes)[::-1]:  # a dead row goes where the last live one does, which overwrites it
            row = b.mul(b.least(b.integer(n), last), pitch)
            b.store(vectors[n], b.at(target, row, f.element), f.align)

    # ---- tiles with the row axis ----------------------------------------------------------------------

    def load_rows(self, op: LoadOp) -> None:
        """A query tile into its buffer, transposed: feature by feature, rows in the lanes."""
        b, memory = self.b, self.f.memories[op.memory]
        feature, _ = self._feature(op.result)
        tabulate(self.f, op.index.data, self.f.rows, axes(op.result)[self.f.rows], [feature])
        with b.when(self.is_one(self.stride(memory, op.index.data, feature))):
            self._load_transposed(op, memory)
        with b.otherwise(), self._rows_have_gaps(op, memory, self._load_vectors):
            self._load_scalars(op, memory)

    @contextmanager
    def _rows_have_gaps(
        self, op: LoadOp | StoreOp, memory: Memory, move: Callable[[LoadOp | StoreOp, Memory], None]
    ) -> Iterator[None]:
        """Where the body runs; ``move`` is for rows that lie side by side, feature by feature."""
        stride = self.stride(memory, op.index.data, self.f.rows)
        if stride is None or (isinstance(op, LoadOp) and self.f.pairs and keeps_pairs(op, self.f.rows)):
            yield
            return
        with self.b.when(self.is_one(stride)):
            move(op, memory)
        with self.b.otherwise():
            yield

    def _each_vector(
        self, op: LoadOp | StoreOp, memory: Memory, value: SSAValue, move: Callable[[Val, Val, Val], None]
    ) -> None:
        """``move(in memory, in the buffer, live lanes)`` for all vectors of rows; loads fill dead ones, too."""
        f, b = self.f, self.b
        feature, width = self._feature(value)
        end = f.row_width if isinstance(op, LoadOp) else f.spans[f.rows].count
        with b.loop(0, width, hint=feature) as column, b.loop(0, end, f.lanes, hint="lane") as lane:
            at = {f.rows: b.add(f.spans[f.rows].start, lane.iv), feature: column.iv}
            pointer = self.address(memory, op.index.data, **at)
            move(pointer, f.row_pointer(value, column.iv, lane.iv), f.live_lanes(lane.iv))

    def _load_vectors(self, op: LoadOp | StoreOp, memory: Memory) -> None:
        assert isinstance(op, LoadOp)
        f, b = self.f, self.b

        def move(pointer: Val, buffer: Val, live: Val) -> None:
            value = b.masked_load(pointer, live, vec(f.lanes, memory.stored))
            b.store(f.expressions.as_float(value), buffer, f.align)

        self._each_vector(op, memory, op.result, move)

    def _store_vectors(self, op: LoadOp | StoreOp, memory: Memory) -> None:
        assert isinstance(op, StoreOp)
        f, b = self.f, self.b

        def move(pointer: Val, buffer: Val, live: Val) -> None:
            self.put(op, pointer, b.load(buffer, f.vector, f.align), live)

        self._each_vector(op, memory, op.value, move)

    def _feature(self, value: SSAValue) -> tuple[str, int]:
        rest = {a: n for a, n in axes(value).items() if a != self.f.rows}
        if len(rest) != 1 or next(iter(rest)) in self.f.spans:
            raise UnsupportedKernelError(f"a tile over {axes(value)} must have the row axis and one feature axis")
        return next(iter(rest.items()))

    def last_live(self, row: Val) -> Val:
        """``row``, or the last live row: a dead row's lanes repeat it."""
        count = self.f.spans[self.f.rows].count
        assert isinstance(count, Val)
        return self.b.least(row, self.b.sub(count, 1))

    def _load_transposed(self, op: LoadOp, memory: Memory) -> None:
        f, b = self.f, self.b
        _, width = self._feature(op.result)
        pairs = f.pairs and keeps_pairs(op, f.rows)
        with b.loop(0, f.row_width, f.lanes, hint="lane") as loop:
            rows = self.row_addresses(op, loop.iv)

            def block(first: Val, count: int) -> None:
                name = f"load_{memory.stored}{'_pairs' if pairs else ''}_{count}"
                arguments = [rows, first, f.row_pointer(op.result, first, loop.iv)]
                f.call(name, arguments, lambda inner, args: Transfers(inner).load_block(op, pairs, count, *args))

            self.blocks(width // 2 if pairs else width, block)

    def row_addresses(self, op: LoadOp, lane: Val, room: str = "rows") -> Val:
        """Room that holds the address of feature 0 of each row from ``lane`` on, all lines of which are asked for."""
        return self._row_addresses(op.index.data, self.f.memories[op.memory], op.result, lane, ask=True, room=room)

    def _row_addresses(
        self,
        index: Sequence[Expr],
        memory: Memory,
        value: SSAValue,
        lane: Val,
        *,
        ask: bool = False,
        room: str = "rows",
    ) -> Val:
        """Room that holds the address of feature 0 of each row from ``lane`` on; may ask for all lines of the rows."""
        f, b = self.f, self.b
        feature, width = self._feature(value)
        rows = b.room(f.lanes * ELEMENT_BYTES[PTR], room)
        with b.loop(0, f.lanes, hint=f.rows) as row:
            at = b.add(f.spans[f.rows].start, self.last_live(b.add(lane, row.iv)))
            address = self.address(memory, index, **{f.rows: at, feature: b.integer(0)})
            b.store(address, b.at(rows, row.iv, PTR))
            for n in range(0, width if ask else 0, 64 // ELEMENT_BYTES[memory.stored]):
                b.prefetch(b.at(address, n, memory.stored))
        return rows

    def load_block(self, op: LoadOp, pairs: bool, count: int, rows: Val, first: Val, target: Val) -> None:
        """``count`` features of a vector of rows, transposed into a buffer."""
        f, b, memory = self.f, self.b, self.f.memories[op.memory]
        vectors = []
        for n in range(f.lanes):
            row = b.load(b.at(rows, n, PTR), PTR)
            if pairs:
                vectors.append(self._pairs(b.at(row, b.mul(first, 2), memory.stored), count))
            else:
                vectors.append(self.widen(memory, b.at(row, first, memory.stored), count))
        for n, value in enumerate(self.transpose(vectors)[:count]):
            b.store(value, b.at(target, n * f.pitch(op.result), f.element), f.align)

    def _pairs(self, pointer: Val, count: int) -> Val:
        """``count`` pairs of contiguous bf16 in a full vector."""
        b, type = self.b, vec(self.f.lanes, "i32")
        if count < self.f.lanes:
            return b.masked_load(pointer, b.mask_first(count, self.f.lanes), type, 2)
        return b.load(pointer, type, 2)

    def _load_scalars(self, op: LoadOp, memory: Memory) -> None:
        f, b, x = self.f, self.b, self.f.expressions
        feature, width = self._feature(op.result)
        pairs = f.pairs and keeps_pairs(op, f.rows)
        with b.loop(0, f.row_width, hint=f.rows) as row, b.loop(0, width, hint=feature) as column:
            at = {f.rows: b.add(f.spans[f.rows].start, self.last_live(row.iv)), feature: column.iv}
            value = b.load(self.address(memory, op.index.data, **at), memory.stored)
            if pairs:  # the halves of a pair are features 2n and 2n + 1
                half = b.binary("andi", column.iv, b.integer(1))
                pair = f.row_pointer(op.result, b.binary("shrsi", column.iv, b.integer(1)), row.iv)
                b.store(value, b.at(pair, half, memory.stored))
            else:
                b.store(x.as_float(value), f.row_pointer(op.result, column.iv, row.iv))

    def store(self, op: StoreOp) -> None:
        """A tile to memory; dead elements are left alone."""
        if len(axes(op.value)) == 1:
            self._store_row(op)
            return
        if op.value not in self.f.buffers.of:
            raise UnsupportedKernelError(f"{op}: stores a constant")
        if any(a in self.f.spans for a in axes(op.value) if a != self.f.rows):
            self._store_pairs(op)
            return
        b, memory = self.b, self.f.memories[op.memory]
        feature, _ = self._feature(op.value)
        tabulate(self.f, op.index.data, self.f.rows, axes(op.value)[self.f.rows], [feature])
        if op.value in self.f.upright:
            self._store_upright(op, memory)
            return
        with b.when(self.is_one(self.stride(memory, op.index.data, feature))):
            self._store_transposed(op, memory)
        with b.otherwise(), self._rows_have_gaps(op, memory, self._store_vectors):
            self._store_scalars(op, memory)

    def expect(self, op: StoreOp) -> None:
        """Ask for the lines that ``op`` is going to write: a store that misses waits for its line in full."""
        f, b, memory = self.f, self.b, self.f.memories[op.memory]
        feature, width = self._feature(op.value)
        tabulate(f, op.index.data, f.rows, axes(op.value)[f.rows], [feature])
        with b.loop(0, f.spans[f.rows].count, hint=f.rows) as row:
            at = {f.rows: b.add(f.spans[f.rows].start, row.iv), feature: b.integer(0)}
            start = self.address(memory, op.index.data, **at)
            for n in range(0, width, 64 // ELEMENT_BYTES[memory.stored]):
                b.prefetch(b.at(start, n, memory.stored), write=True)

    def _store_transposed(self, op: StoreOp, memory: Memory) -> None:
        f, b = self.f, self.b
        _, width = self._feature(op.value)
        live = f.spans[f.rows].count
        assert isinstance(live, Val)
        with b.loop(0, live, f.lanes, hint="lane") as loop:
            rows = self._row_addresses(op.index.data, memory, op.value, loop.iv)
            left = b.sub(live, loop.iv)

            def block(first: Val, count: int) -> None:
                name = f"{'add' if op.add is not None else 'store'}_{memory.stored}_{count}"
                arguments = [rows, first, f.row_pointer(op.value, first, loop.iv), left]
                f.call(name, arguments, lambda inner, args: Transfers(inner).store_block(op, memory, count, *args))

            self.blocks(width, block)

    def store_block(
        self, op: StoreOp, memory: Memory, count: int, rows: Val, first: Val, source: Val, live: Val
    ) -> None:
        """``count`` features of a vector of rows from a buffer, transposed; only the first ``live`` rows are."""
        f, b = self.f, self.b
        # a dead row is written where the last live one goes, which comes later and overwrites it; or it adds 0
        order = range(f.lanes) if op.add is not None else range(f.lanes)[::-1]
        features = [
            b.load(b.at(source, min(n, count - 1) * f.pitch(op.value), f.element), f.vector, f.align)
            for n in range(f.lanes)
        ]
        vectors = self.transpose(features)
        mask = b.mask_first(count, f.lanes) if count < f.lanes else None
        for n in order:
            value = vectors[n]
            if op.add is not None:
                value = b.select(b.less(b.integer(n), live), value, b.real(0.0, f.vector))
            row = b.load(b.at(rows, n, PTR), PTR)
            self.put(op, b.at(row, first, memory.stored), value, mask)

    def _store_upright(self, op: StoreOp, memory: Memory) -> None:
        """Rows of features that lie in scratch as they go to memory."""
        f, b = self.f, self.b
        feature, width = self._feature(op.value)
        stride = self.stride(memory, op.index.data, feature)
        assert stride is not None

        def rows(step: Val, put: Callable[[Val, Val], None]) -> None:
            with b.loop(0, f.spans[f.rows].count, hint=f.rows) as row:
                at = {f.rows: b.add(f.spans[f.rows].start, row.iv), feature: b.integer(0)}
                place, source = self.address(memory, op.index.data, **at), f.upright_row(op.value, row.iv)
                for n in range(0, width, f.lanes):
                    value = b.load(b.at(source, n, f.element), f.vector, f.align)
                    put(b.at(place, b.mul(step, n), memory.stored), value)

        all_lanes = b.boolean(True, f.lanes)
        with b.when(self.is_one(stride)):
            rows(b.integer(1), lambda place, value: self.put(op, place, value))
        with b.otherwise():
            rows(stride, lambda place, value: self.put_strided(op, place, value, stride, all_lanes))

    def _store_scalars(self, op: StoreOp, memory: Memory) -> None:
        f, b = self.f, self.b
        feature, width = self._feature(op.value)
        with b.loop(0, f.spans[f.rows].count, hint=f.rows) as row, b.loop(0, width, hint=feature) as column:
            at = {f.rows: b.add(f.spans[f.rows].start, row.iv), feature: column.iv}
            value = b.load(f.row_pointer(op.value, column.iv, row.iv), f.element)
            self.put(op, self.address(memory, op.index.data, **at), value)

    def _store_row(self, op: StoreOp) -> None:
        """One number for each row, or for each element of a loop's axis."""
        f, b, memory = self.f, self.b, self.f.memories[op.memory]
        (axis,) = axes(op.value)
        if axis not in f.spans or (axis == f.rows and op.value not in f.buffers.of):
            raise UnsupportedKernelError(f"{op}: stores a constant")
        with b.loop(0, f.spans[axis].count, hint=axis) as row:
            if axis == f.rows:
                value = b.load(f.row_pointer(op.value, 0, row.iv), f.element)
            else:
                lanes = Chunk(f, axis, row.iv, b.integer(0), {}).value(op.value)
                value = b.pure(f"vector.extract {lanes.ssa}[0] : {f.element} from {lanes.type}", f.element)
            at = {axis: b.add(f.spans[axis].start, row.iv)}
            self.put(op, self.address(memory, op.index.data, **at), value)

    def _store_pairs(self, op: StoreOp) -> None:
        """A tile over rows and a loop's axis: vectors where lanes are contiguous, else one element at a time.

        Indices outside of the memory, which pairs that a mask took away may have, are skipped.
        """
        f, b, x, memory = self.f, self.b, self.f.expressions, self.f.memories[op.memory]
        (axis,) = (a for a in axes(op.value) if a != f.rows)
        rows, live, span = f.spans[f.rows], f.spans[f.rows].count, f.spans[axis]
        steps = [coefficient(e, f.rows) for e in op.index.data]
        alike = all(step is not None and axis not in free_vars(step) for step in steps)
        stride = self.stride(memory, op.index.data, f.rows) if alike else None
        # rows in the inner loop: which lanes are live, and inside of the memory, is the same for all of them
        with (
            b.when(self.is_one(stride)),
            b.loop(0, live, f.lanes, hint="lane") as lane,
            b.loop(0, span.count, hint=axis) as row,
        ):
            scope = f.scalar_scope({axis: b.add(span.start, row.iv), f.rows: f.lane_indices(lane.iv)})
            index = [x.emit(e, scope) for e in op.index.data]
            first = [b.pure(f"vector.extract {v.ssa}[0] : {v.element} from {v.type}", v.element) if v.lanes else v
                     for v in index]  # fmt: skip
            value = b.load(f.row_pointer(op.value, row.iv, lane.iv), f.vector, f.align)
            mask = b.binary("andi", f.live_lanes(lane.iv), b.broadcast(self.inside(memory, index), f.lanes))
            self.put(op, memory.address(b, [x.as_int(v, 64) for v in first]), value, mask)
        with b.otherwise(), b.loop(0, span.count, hint=axis) as row, b.loop(0, live, hint=f.rows) as column:
            scope = f.scalar_scope({axis: b.add(span.start, row.iv), f.rows: b.add(rows.start, column.iv)})
            position = [x.scalar(e, scope) for e in op.index.data]
            value = b.load(f.row_pointer(op.value, row.iv, column.iv), f.element)
            with b.when(self.inside(memory, position)):
                self.put(op, memory.address(b, position), value)

    def inside(self, memory: Memory, index: Sequence[Val]) -> Val:
        """Does the memory have this element?"""
        b, lanes = self.b, self.f.lanes if any(v.lanes for v in index) else 0
        inside = b.boolean(True, lanes)
        for v, dim in zip(index, memory.dims, strict=True):
            if v.element != dim.type:  # 32 bits hold no index that is larger
                dim = b.cast("trunci", b.least(dim, 2**31 - 1), v.element)
            # one unsigned comparison is both 0 <= v and v < dim
            fits = b.cmpi("ult", v, b.broadcast(dim, v.lanes) if v.lanes else dim)
            inside = b.binary("andi", inside, b.broadcast(fits, lanes) if lanes else fits)
        return inside

    # ---- registers ------------------------------------------------------------------------------------

    def transpose(self, rows: list[Val]) -> list[Val]:
        """Transpose a square block in registers: exchange halves, then quarters, and so on."""
        rows, n = list(rows), len(rows)
        step = n // 2
        while step:
            low = [k if not k & step else n + k - step for k in range(n)]
            high = [k + step if not k & step else n + k for k in range(n)]
            for i in range(n):
                if not i & step:
                    x, y = rows[i], rows[i + step]
                    rows[i], rows[i + step] = self.b.shuffle(x, y, low), self.b.shuffle(x, y, high)
            step //= 2
        return rows
