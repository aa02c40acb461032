"""Moving tiles between the user's memory and scratch: query tiles are transposed, key tiles viewed or packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.ir import SSAValue

from ...ir.expr import Expr
from ...ir.tile import LoadOp, StoreOp
from .builder import PTR, Val, vec
from .errors import UnsupportedKernelError
from .frame import Frame, KeyView
from .memory import Memory
from .plan import axes


class Transfers:
    """Emits ``tile.load`` and ``tile.store``."""

    def __init__(self, frame: Frame):
        self.f, self.b = frame, frame.b

    # ---- shared ---------------------------------------------------------------------------------------

    def _address(self, memory: Memory, index: Sequence[Expr], **at: Val) -> Val:
        """Pointer to one element, with axes given by global index."""
        x, scope = self.f.expressions, self.f.scalar_scope(at)
        return memory.address(self.b, [x.scalar(e, scope) for e in index])

    def _stride(self, memory: Memory, index: Sequence[Expr], axis: str) -> Val | None:
        """Elements from one index of ``axis`` to the next, where that is the same everywhere."""
        return memory.stride_along(self.f.expressions, index, axis, self.f.scalar_scope())

    def _is_one(self, stride: Val | None) -> Val:
        return self.b.boolean(False) if stride is None else self.b.cmpi("eq", stride, self.b.integer(1))

    def _widen(self, memory: Memory, pointer: Val, count: int) -> Val:
        """``count`` contiguous elements, converted, in a full vector; the rest is 0 and not read."""
        b, type = self.b, vec(self.f.lanes, memory.stored)
        if count < self.f.lanes:
            return self.f.expressions.as_float(b.masked_load(pointer, b.mask_first(count, self.f.lanes), type))
        return self.f.expressions.as_float(b.load(pointer, type))

    def _narrow(self, memory: Memory, value: Val) -> Val:
        """A computed value as the memory's element type."""
        if memory.stored == value.element:
            return value
        wide = {"f64": 8, "f32": 4}
        if memory.stored == "f64":
            return self.b.cast("extf", value, vec(value.lanes, "f64"))
        if memory.stored not in ("f32", "bf16", "f16") or value.element not in wide:
            raise UnsupportedKernelError(f"cannot store {value.element} to {memory.name!r} of {memory.element}")
        return self.b.cast("truncf", value, vec(value.lanes, memory.stored))

    def _blocks(self, width: int, emit: Callable[[Val, int], None]) -> None:
        """Run ``emit(first, count)`` for features in groups of a lane vector: a loop, then what is left."""
        lanes = self.f.lanes
        whole = width // lanes * lanes
        if whole == lanes:
            emit(self.b.integer(0), lanes)
        elif whole:
            with self.b.loop(0, whole, lanes, hint="feature") as loop:
                emit(loop.iv, lanes)
        if width > whole:
            emit(self.b.integer(whole), width - whole)

    # ---- tiles without the row axis -------------------------------------------------------------------

    def view(self, op: LoadOp, scratch: Val) -> KeyView:
        """A key tile: in place where it can be, else packed into ``scratch``."""
        f, b, memory = self.f, self.b, self.f.memories[op.memory]
        (row_axis, _), (feature, width) = axes(op.result).items()
        index = op.index.data
        start = f.spans[row_axis].start if row_axis in f.spans else b.integer(0)
        row_stride, feature_stride = (self._stride(memory, index, a) for a in (row_axis, feature))
        in_place = memory.stored == f.element and row_stride is not None and feature_stride is not None
        contiguous = self._is_one(feature_stride)
        if not in_place:
            with b.when(contiguous):
                self._pack(op, memory, scratch, vectors=True)
            with b.otherwise():
                self._pack(op, memory, scratch, vectors=False)
            return KeyView(scratch, b.integer(self.packed_width(width)), (row_axis, feature), width, False)
        assert row_stride is not None
        with b.when(b.binary("xori", contiguous, b.boolean(True))):
            self._pack(op, memory, scratch, vectors=False)
        base = self._address(memory, index, **{row_axis: start, feature: b.integer(0)})
        return KeyView(
            b.pure(f"arith.select {contiguous.ssa}, {base.ssa}, {scratch.ssa} : {PTR}", PTR, op.result.name_hint or ""),
            b.select(contiguous, row_stride, b.integer(self.packed_width(width))),
            (row_axis, feature),
            width,
            True,
        )

    def packed_width(self, width: int) -> int:
        return -(-width // self.f.lanes) * self.f.lanes

    def _pack(self, op: LoadOp, memory: Memory, scratch: Val, *, vectors: bool) -> None:
        f, b, x = self.f, self.b, self.f.expressions
        (row_axis, rows), (feature, width) = axes(op.result).items()
        span = f.spans.get(row_axis)
        start, count = (span.start, span.count) if span else (b.integer(0), rows)
        with b.loop(0, count, hint=row_axis) as row:
            target = b.at(scratch, b.mul(row.iv, self.packed_width(width)), f.element)
            at = {row_axis: b.add(start, row.iv)}
            if vectors:
                source = self._address(memory, op.index.data, **at, **{feature: b.integer(0)})

                def copy(first: Val, count: int) -> None:
                    value = self._widen(memory, b.at(source, first, memory.stored), count)
                    b.store(value, b.at(target, first, f.element), f.align)

                self._blocks(width, copy)
                return
            with b.loop(0, width, hint=feature) as column:
                source = self._address(memory, op.index.data, **at, **{feature: column.iv})
                value = x.as_float(b.load(source, memory.stored))
                b.store(value, b.at(target, column.iv, f.element))

    # ---- tiles with the row axis ----------------------------------------------------------------------

    def load_rows(self, op: LoadOp) -> None:
        """A query tile into its buffer, transposed: feature by feature, rows in the lanes."""
        b, memory = self.b, self.f.memories[op.memory]
        feature, _ = self._feature(op.result)
        with b.when(self._is_one(self._stride(memory, op.index.data, feature))):
            self._load_transposed(op, memory)
        with b.otherwise():
            self._load_scalars(op, memory)

    def _feature(self, value: SSAValue) -> tuple[str, int]:
        rest = {a: n for a, n in axes(value).items() if a != self.f.rows}
        if len(rest) != 1 or next(iter(rest)) in self.f.spans:
            raise UnsupportedKernelError(f"a tile over {axes(value)} must have the row axis and one feature axis")
        return next(iter(rest.items()))

    def _last_live(self, row: Val) -> Val:
        """``row``, or the last live row: a dead row's lanes repeat it."""
        count = self.f.spans[self.f.rows].count
        assert isinstance(count, Val)
        return self.b.least(row, self.b.sub(count, 1))

    def _load_transposed(self, op: LoadOp, memory: Memory) -> None:
        f, b = self.f, self.b
        feature, width = self._feature(op.result)
        start = f.spans[f.rows].start
        with b.loop(0, f.pitch, f.lanes, hint="lane") as loop:
            rows = []
            for n in range(f.lanes):
                row = b.add(start, self._last_live(b.add(loop.iv, n)))
                rows.append(self._address(memory, op.index.data, **{f.rows: row, feature: b.integer(0)}))

            def block(first: Val, count: int) -> None:
                vectors = [self._widen(memory, b.at(p, first, memory.stored), count) for p in rows]
                target = f.row_pointer(op.result, first, loop.iv)
                for n, value in enumerate(self._transpose(vectors)[:count]):
                    b.store(value, b.at(target, n * f.pitch, f.element), f.align)

            self._blocks(width, block)

    def _load_scalars(self, op: LoadOp, memory: Memory) -> None:
        f, b, x = self.f, self.b, self.f.expressions
        feature, width = self._feature(op.result)
        with b.loop(0, f.pitch, hint=f.rows) as row, b.loop(0, width, hint=feature) as column:
            at = {f.rows: b.add(f.spans[f.rows].start, self._last_live(row.iv)), feature: column.iv}
            value = x.as_float(b.load(self._address(memory, op.index.data, **at), memory.stored))
            b.store(value, f.row_pointer(op.result, column.iv, row.iv))

    def store(self, op: StoreOp) -> None:
        """A tile with the row axis to memory; dead rows are left alone."""
        if len(axes(op.value)) == 1:
            self._store_row(op)
            return
        b, memory = self.b, self.f.memories[op.memory]
        feature, _ = self._feature(op.value)
        with b.when(self._is_one(self._stride(memory, op.index.data, feature))):
            self._store_transposed(op, memory)
        with b.otherwise():
            self._store_scalars(op, memory)

    def _store_transposed(self, op: StoreOp, memory: Memory) -> None:
        f, b = self.f, self.b
        feature, width = self._feature(op.value)
        start, live = f.spans[f.rows].start, f.spans[f.rows].count
        # a dead row is written where the last live one goes, which comes later and overwrites it
        with b.loop(0, live, f.lanes, hint="lane") as loop:
            rows = []
            for n in range(f.lanes):
                row = b.add(start, self._last_live(b.add(loop.iv, n)))
                rows.append(self._address(memory, op.index.data, **{f.rows: row, feature: b.integer(0)}))

            def block(first: Val, count: int) -> None:
                source = f.row_pointer(op.value, first, loop.iv)
                features = [
                    b.load(b.at(source, min(n, count - 1) * f.pitch, f.element), f.vector, f.align)
                    for n in range(f.lanes)
                ]
                vectors = self._transpose(features)
                for n in reversed(range(f.lanes)):
                    value, pointer = self._narrow(memory, vectors[n]), b.at(rows[n], first, memory.stored)
                    if count == f.lanes:
                        b.store(value, pointer)
                    else:
                        b.masked_store(value, pointer, b.mask_first(count, f.lanes))

            self._blocks(width, block)

    def _store_scalars(self, op: StoreOp, memory: Memory) -> None:
        f, b = self.f, self.b
        feature, width = self._feature(op.value)
        with b.loop(0, f.spans[f.rows].count, hint=f.rows) as row, b.loop(0, width, hint=feature) as column:
            at = {f.rows: b.add(f.spans[f.rows].start, row.iv), feature: column.iv}
            value = b.load(f.row_pointer(op.value, column.iv, row.iv), f.element)
            b.store(self._narrow(memory, value), self._address(memory, op.index.data, **at))

    def _store_row(self, op: StoreOp) -> None:
        """One number for each row."""
        f, b, memory = self.f, self.b, self.f.memories[op.memory]
        with b.loop(0, f.spans[f.rows].count, hint=f.rows) as row:
            at = {f.rows: b.add(f.spans[f.rows].start, row.iv)}
            value = b.load(f.row_pointer(op.value, 0, row.iv), f.element)
            b.store(self._narrow(memory, value), self._address(memory, op.index.data, **at))

    # ---- registers ------------------------------------------------------------------------------------

    def _transpose(self, rows: list[Val]) -> list[Val]:
        """Transpose a square block in registers: exchange halves, then quarters, and so on."""
        rows, n = list(rows), len(rows)
        step = n // 2
        while step:
            low = [k if not k & step else n + k - step for k in range(n)]
            high = [k + step if not k & step else n + k for k in range(n)]
            for i in range(n):
                if not i & step:
                    x, y = rows[i], rows[i + step]
                    rows[i], rows[i + step] = self._shuffle(x, y, low), self._shuffle(x, y, high)
            step //= 2
        return rows

    def _shuffle(self, x: Val, y: Val, picks: list[int]) -> Val:
        return self.b.pure(f"vector.shuffle {x.ssa}, {y.ssa} {picks} : {x.type}, {y.type}", x.type)
