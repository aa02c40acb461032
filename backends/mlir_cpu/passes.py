"""Emission of one fused pass: a register-blocked dot or nothing, then elementwise ops and reductions.

A register block is a few lane vectors wide and a few tile rows high.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from xdsl.ir import SSAValue

from ...ir.expr import Load, Op, Var, free_vars
from ...ir.tile import DotOp, FullOp, LoadOp, MapOp, MaskOp, ReduceOp, tile_type
from .builder import Val
from .dots import BlockDot
from .errors import UnsupportedKernelError
from .expressions import Scope
from .frame import Frame, Span
from .narrow_stores import NarrowStores
from .plan import Pass, axes

SPAN = 16  # terms that are added before the rest, for fewer roundings at the size of the whole


class Chunk:
    """One lane vector of one tile row, and the values known there."""

    def __init__(
        self,
        frame: Frame,
        axis: str | None,
        row: Val | int,
        lane: Val,
        known: dict[SSAValue, Val],
        shared: dict[SSAValue, Val] | None = None,
    ):
        self.frame, self.axis, self.row, self.lane = frame, axis, row, lane
        self.known = dict(known)
        self.shared = {} if shared is None else shared  # values that are the same in all chunks of the row
        self._names: dict[str, Val | Callable[[], Val]] | None = None

    def scope(self, params: Mapping[str, Val | Callable[[], Val]]) -> Scope:
        f = self.frame
        if self._names is None:
            names: dict[str, Val | Callable[[], Val]] = dict(f.scalar_scope().names)
            names[f.rows] = lambda: f.lane_indices(self.lane)
            if (axis := self.axis) is not None:
                names[axis] = lambda: f.b.add(f.spans[axis].start, self.row)
            self._names = names
        known = f.tables.known(f, self.axis, self.row, self.lane) if f.tables else {}
        return Scope(
            {**self._names, **params},
            live=lambda: f.live_lanes(self.lane),
            first=lambda: f.b.add(f.spans[f.rows].start, self.lane),
            known={e: read for e, read in known.items() if not free_vars(e) & params.keys()},
            apart={e: partial(read, self.row, self.lane) for e, read in f.apart.items()} if self.axis else {},
        )

    def value(self, v: SSAValue) -> Val:
        f = self.frame
        known = self.known if f.rows in axes(v) or v in self.known else self.shared
        if v not in known:
            if v not in f.buffers.of:
                known[v] = self.compute(v)
            elif f.rows in axes(v):
                pointer = f.row_pointer(v, self.row if len(axes(v)) > 1 else 0, self.lane)
                known[v] = f.b.load(pointer, f.vector, f.align, v.name_hint or "")
            else:
                known[v] = f.b.broadcast(f.b.load(f.element_pointer(v, self.row), f.element), f.lanes)
        return known[v]

    def compute(self, v: SSAValue) -> Val:
        """Emit the op that defines ``v``, for this chunk."""
        x, op = self.frame.expressions, v.owner
        match op:
            case FullOp():
                return x.vector(op.value.data.body, self.scope({}))
            case LoadOp():
                memory = self.frame.memories[op.memory]
                return x.vector(Load(memory.name, op.index.data), self.scope({}))
            case MapOp():
                body, params = op.function.data.body, op.function.data.params
                lazily = {p: (lambda u=u: self.value(u)) for p, u in zip(params, op.inputs, strict=True)}
                return self._round(x.vector(body, self.scope(lazily)), v)
            case MaskOp():
                value = self.value(op.input)
                if not self.frame.masks:
                    return value
                b = self.frame.b
                cond = b.broadcast(x.as_bool(x.emit(op.condition.data, self.scope({}))), x.lanes)
                return b.select(cond, value, b.real(-math.inf, value.type))
        raise UnsupportedKernelError(f"no CPU lowering for the value of {op}")

    def _round(self, value: Val, v: SSAValue) -> Val:
        """Drop the digits that a narrow element type would not keep."""
        element, b = str(tile_type(v).element), self.frame.b
        if element == "f64" or element == value.element or v in self.frame.tiles.computed:
            return value
        if element == "f32" or self.frame.element == "f64":
            return value
        return b.cast("extf", self.frame.expressions.math.narrow(value, element), value.type)


def empty_value(op: ReduceOp) -> float:
    """The reduction of nothing."""
    return -math.inf if op.kind.data == "max" else 0.0


class PassEmitter:
    """Emits one :class:`Pass`."""

    def __init__(self, frame: Frame, step: Pass):
        self.f, self.b, self.step = frame, frame.b, step
        self.axis = next((a for a in step.shape if a != frame.rows), None)
        self.reduces = [op for op in step.ops if isinstance(op, ReduceOp) and op.axis != frame.rows]
        self.row_reduces = [op for op in step.ops if isinstance(op, ReduceOp) and op.axis == frame.rows]
        self.narrow = NarrowStores(frame)
        self.dot = BlockDot(frame, step.dot) if step.dot else None
        self._shape(frame.vectors)

    def _shape(self, vectors: int) -> None:
        """Choose register blocks for tiles ``vectors`` wide."""
        f, dot = self.f, self.dot
        wide, self.height = f.target.block(vectors)
        if self.axis is None:
            wide = 1  # one number for each row: the loop is short, and vectors do not wait for one another
        self.offsets = [n * f.lanes for n in range(wide)]
        if dot is None:
            # rows that share a pair; nothing else to gain from blocks, not even in sums: each lane has its own
            self.height = 2 if f.tiles.dots or self._stores_pairs() else 1
        elif dot.along_rows:
            self.height = min(f.target.accumulators // wide, 16)  # one address serves all rows, and few lines
        if self.axis is not None and isinstance(count := self._count(), int):
            self.height = -(-count // -(-count // self.height))  # blocks of the same height, as far as that goes
        if self._stores_pairs() and self.height > 1:
            self.height -= self.height % 2  # a block starts at an even row

    def _stores_pairs(self) -> bool:
        return any(self.f.tiles.computed.get(value) == "pairs" for value in self.step.stored)

    def emit(self) -> None:
        self.comments()
        for op in self.row_reduces:
            with self.b.loop(0, self._count(), hint=self.axis or "x") as loop:
                self.b.store(self.b.real(empty_value(op), self.f.element), self.f.element_pointer(op.result, loop.iv))
        with self._lane_blocks() as lane:
            lanes = [self.b.add(lane, n) for n in self.offsets]
            known = [self._row_values(x) for x in lanes]
            if self.axis is None:
                for x, k in zip(lanes, known, strict=True):
                    self._finish(Chunk(self.f, None, 0, x, k), [])
                return
            self._block(lanes, known)
        for value in self.step.stored:
            if value in self.f.tiles.computed:
                self.narrow.finish(value, self._count())

    def comments(self) -> None:
        """Quote the ops."""
        for op in [self.step.dot, *self.step.ops]:
            if op is not None:
                self.b.comment(" ".join(str(op).split()))

    def _block(self, lanes: list[Val], known: list[dict[SSAValue, Val]]) -> None:
        """All rows of a few lane vectors."""
        accumulators = [self._start(op) for op in self.reduces for _ in lanes]
        results = self._blocked_rows(accumulators, lanes, known)
        for n, op in enumerate(self.reduces):
            for m, x in enumerate(lanes):
                self._store(op.result, 0, x, results[n * len(lanes) + m])

    @contextmanager
    def _lane_blocks(self) -> Iterator[Val]:
        width = len(self.offsets) * self.f.lanes
        if width == self.f.row_width:
            yield self.b.integer(0)
        else:
            # blocks without a live row are left as they are: nothing reads them, but products of whole blocks
            whole = self.f.tiles.dots or self.axis is None  # vectors of other passes' blocks, live or not
            rows = self.f.row_width if whole else self.f.spans[self.f.rows].count
            with self.b.loop(0, rows, width, hint="lane") as loop:
                yield loop.iv

    def _count(self) -> Val | int:
        assert self.axis is not None
        if self.axis not in self.f.spans:
            return self.step.shape[self.axis]
        count = self.f.spans[self.axis].count
        return self.b.known(count) or count

    def _row_values(self, lane: Val) -> dict[SSAValue, Val]:
        """Operands that do not change from tile row to tile row, read once."""
        if self.axis is None:
            return {}
        chunk = Chunk(self.f, None, 0, lane, {})
        operands = [v for op in self.step.ops for v in op.operands]
        return {v: chunk.value(v) for v in operands if v in self.f.buffers.of and [*axes(v)] == [self.f.rows]}

    def _start(self, op: ReduceOp) -> Val:
        return self.b.real(empty_value(op), self.f.vector)

    def _store(self, value: SSAValue, row: Val | int, lane: Val, what: Val) -> None:
        self.b.store(what, self.f.row_pointer(value, row, lane), self.f.align)

    def _finish(self, chunk: Chunk, accumulators: Sequence[Val | None], r: int = 0, height: int = 1) -> list[Val]:
        """The elementwise ops of one chunk; stores come last, for values may be computed in place.

        It is in row ``r`` of the ``height`` of its register block.
        """
        combined: list[Val] = []
        for op in self.step.ops:
            if op in self.row_reduces:
                continue
            if isinstance(op, ReduceOp):
                combined.append(self._combine(op, accumulators[len(combined)], chunk.value(op.input)))
            else:
                result = op.results[0]
                chunk.known[result] = chunk.compute(result)
        for value in self.step.stored:
            if value in self.f.tiles.computed:
                assert isinstance(chunk.row, Val)
                self.narrow.put(value, chunk.row, chunk.lane, chunk.known[value], r, height)
            elif not isinstance(value.owner, ReduceOp) and not self._is_there(value):
                self._store(value, chunk.row, chunk.lane, chunk.known[value])
        return combined

    def _is_there(self, value: SSAValue) -> bool:
        """Is it where a mask that takes nothing away found it?"""
        of, op = self.f.buffers.of, value.owner
        return not self.f.masks and isinstance(op, MaskOp) and of.get(op.input) == of[value]

    def _combine(self, op: ReduceOp, acc: Val | None, x: Val) -> Val:
        if acc is None:
            return x
        if op.kind.data == "max":
            return self.f.expressions.math.maximum(x, acc)
        return self.b.pure(f"arith.addf {acc.ssa}, {x.ssa} : {acc.type}", acc.type)

    def _blocked_rows(self, accumulators: list[Val], lanes: list[Val], known: list[dict[SSAValue, Val]]) -> list[Val]:
        """Full register blocks, then what is left."""
        height = self.height
        count = self._count()
        if isinstance(count, int):
            whole = count // height * height
            if whole:
                accumulators = self._rows(0, whole, height, accumulators, lanes, known)
            if count > whole:
                accumulators = self._rows(whole, count, count - whole, accumulators, lanes, known)
            return accumulators
        if self._may_repeat_rows():
            return self._rows(0, count, height, accumulators, lanes, known, last=self.b.sub(count, 1))
        if self.f.unmasked is not None and any(isinstance(op, MaskOp) for op in self.step.ops):
            return self._around(self.f.unmasked, count, accumulators, lanes, known)
        return self._odd_rows(self.b.integer(0), count, accumulators, lanes, known)

    def _odd_rows(
        self, first: Val, end: Val, accumulators: list[Val], lanes: list[Val], known: list[dict[SSAValue, Val]]
    ) -> list[Val]:
        """Full register blocks from ``first`` on, then rows one by one."""
        count = self.b.sub(end, first)
        whole = self.b.add(first, self.b.mul(self.b.binary("divsi", count, self.b.integer(self.height)), self.height))
        accumulators = self._rows(first, whole, self.height, accumulators, lanes, known)
        return self._rows(whole, end, 1, accumulators, lanes, known)

    def _around(
        self, free: Span, count: Val, accumulators: list[Val], lanes: list[Val], known: list[dict[SSAValue, Val]]
    ) -> list[Val]:
        """Rows that need no mask, in pairs; then those before and those after them."""
        b = self.b
        end = b.add(free.start, free.count)
        bare = PassEmitter(replace(self.f, masks=False), self.step)
        accumulators = bare._rows(free.start, end, self.height, accumulators, lanes, known)
        with b.loop(0, 2, 1, accumulators, hint="side") as side:
            before = b.cmpi("eq", side.iv, b.integer(0))
            low, high = b.select(before, b.integer(0), end), b.select(before, free.start, count)
            side.yields = self._odd_rows(low, high, side.carried, lanes, known)
        return side.results

    def _may_repeat_rows(self) -> bool:
        """Does computing a row twice change nothing?  Then the last block need not be whole.

        That holds where rows are stored and maxima taken, unless a result overwrites an operand.
        """
        if self.step.dot is None or self.row_reduces or any(op.kind.data != "max" for op in self.reduces):
            return False
        if self._stores_pairs():  # a row goes where its number says
            return False
        of = self.f.buffers.of
        written = {of[v] for v in self.step.stored if not isinstance(v.owner, ReduceOp)}
        reads = [v for op in [self.step.dot, *self.step.ops] for v in op.operands if v not in self.step.defined]
        return not any(of.get(v) in written for v in reads)

    def _rows(
        self,
        first: Val | int,
        end: Val | int,
        height: int,
        accumulators: list[Val],
        lanes: list[Val],
        known: list[dict[SSAValue, Val]],
        last: Val | None = None,
        in_spans: bool = True,
    ) -> list[Val]:
        """A loop over tile rows, ``height`` at a time; rows beyond ``last`` repeat it."""
        b = self.b
        # matrix registers round what is summed to bf16, of which spans save nothing
        if in_spans and height <= 2 and not self.f.tiles.dots and any(op.kind.data == "sum" for op in self.reduces):
            with b.loop(first, end, SPAN, accumulators, hint="span") as loop:
                stop = b.least(b.add(loop.iv, SPAN), end)
                start = [self._start(op) for op in self.reduces for _ in lanes]
                sums = self._rows(loop.iv, stop, height, start, lanes, known, last, in_spans=False)
                loop.yields = self._combined(loop.carried, sums)
            return loop.results
        with b.loop(first, end, height, accumulators, hint=self.axis or "x") as loop:
            rows = [b.add(loop.iv, r) for r in range(height)]
            if last is not None:
                rows = [rows[0], *(b.least(row, last) for row in rows[1:])]
            if self.f.ahead and self.axis in self.f.spans:
                self.f.ahead.ask(b)
            dots = self.dot.emit(rows, lanes) if self.dot else []
            # a block is reduced by itself first: fewer roundings at the size of the whole
            current: list[Val | None] = [None for _ in loop.carried]
            width = len(lanes)
            for r, row in enumerate(rows):
                chunks: list[Chunk] = []
                shared: dict[SSAValue, Val] = {}
                for m, lane in enumerate(lanes):
                    chunk = Chunk(self.f, self.axis, row, lane, known[m], shared)
                    chunks.append(chunk)
                    if self.step.dot:
                        chunk.known[self.step.dot.result] = self._accumulate(self.step.dot, chunk, dots[r * width + m])
                    mine = current[m::width] if current else []
                    for n, value in enumerate(self._finish(chunk, mine, r, height)):
                        current[n * width + m] = value
                for op in self.row_reduces:
                    self._reduce_row(op, chunks)
            loop.yields = self._combined(loop.carried, [x for x in current if x is not None])
        return loop.results

    def _combined(self, accumulators: list[Val], values: list[Val]) -> list[Val]:
        """The reductions of both; for each, the lane vectors in turn."""
        ops = [op for op in self.reduces for _ in range(len(values) // len(self.reduces))]
        return [self._combine(op, acc, x) for op, acc, x in zip(ops, accumulators, values, strict=True)]

    def _reduce_row(self, op: ReduceOp, chunks: Sequence[Chunk]) -> None:
        """Combine the live lanes of one tile row with what earlier lane blocks left."""
        b, f = self.b, self.f
        acc: Val | None = None
        for chunk in chunks:
            acc = self._combine(op, acc, b.select(f.live_lanes(chunk.lane), chunk.value(op.input), self._start(op)))
        assert acc is not None
        pointer = f.element_pointer(op.result, chunks[0].row)
        kind, flags = ("maxnumf", "") if op.kind.data == "max" else ("add", " fastmath<reassoc>")
        total = b.op(f"vector.reduction <{kind}>, {acc.ssa}{flags} : {acc.type} into {f.element}", f.element)
        old = b.load(pointer, f.element)
        name = "maximumf" if op.kind.data == "max" else "addf"
        b.store(b.op(f"arith.{name} {old.ssa}, {total.ssa} : {f.element}", f.element), pointer)

    def _accumulate(self, dot: DotOp, chunk: Chunk, product: Val) -> Val:
        """``acc + product``, as one fma where the accumulator is rescaled by a product."""
        if dot.acc is None:
            return product
        owner = dot.acc.owner
        if dot.acc not in self.f.buffers.of and isinstance(owner, MapOp):
            match owner.function.data.body:
                case Op("*", (Var(x), Var(y))):
                    values = dict(zip(owner.function.data.params, owner.inputs, strict=True))
                    return self.b.fma(chunk.value(values[x]), chunk.value(values[y]), product)
        return self.b.binary("addf", chunk.value(dot.acc), product)

    def copy(self, source: SSAValue, target: SSAValue) -> None:
        """Write ``source`` where ``target`` lives."""
        if isinstance(source.owner, FullOp):  # all rows as one
            constant = Chunk(self.f, None, 0, self.b.integer(0), {}).value(source)
            rows = self.step.shape[self.axis] if self.axis else 1
            with self.b.loop(0, rows * self.f.pitch(target), self.f.lanes, hint="lane") as lane:
                self._store(target, 0, lane.iv, constant)
            return
        with self._lane_blocks() as lane, self.b.loop(0, self._count() if self.axis else 1) as loop:
            for n in self.offsets:
                chunk = Chunk(self.f, self.axis, loop.iv, self.b.add(lane, n), {})
                self._store(target, loop.iv if self.axis else 0, chunk.lane, chunk.value(source))
