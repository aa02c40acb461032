"""Kernels of fewer rows than a vector has lanes, such as one query at decoding: keys and features in the lanes.

A product of queries and keys has features in the lanes; the sums of as many pairs as there are lanes are then added
up together, by a tree of shuffles that leaves one pair in each lane.  A product of probabilities and values has the
values' features in the lanes and broadcasts probabilities.  Keys and values are read once for all rows, in place, and
widened in registers, or multiplied as pairs of bf16.  Between the products keys are in the lanes.  All that is not a
product is little work, so nothing is fused: every op is a loop over its tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from xdsl.ir import Block, Operation, SSAValue

from ...ir.tile import DotOp, ForOp, FullOp, LoadOp, MapOp, MaskOp, ReduceOp, StoreOp, YieldOp
from .buffers import Buffers
from .builder import ELEMENT_BYTES, Val, vec
from .expressions import Expressions
from .few_rows_plan import FewRowsPlan
from .frame import Frame, KeyView, Span
from .loops import walk_ranges
from .memory import CapturedReads, coefficient
from .pairs import add_pairs, interleaved
from .passes import Chunk, PassEmitter, empty_value
from .plan import Pass, axes
from .transfers import Transfers


class FewRowsEmitter:
    """Emits the body of such a kernel for one task; ``packs`` is room for keys and values not read in place."""

    def __init__(self, frame: Frame, plan: FewRowsPlan, packs: dict[LoadOp, Val]):
        self.plan, self.packs, self.f = plan, packs, replace(frame, buffers=Buffers("", 0, plan.kept))
        self.b, self.rows = frame.b, plan.rows
        self.count = next(axes(v)[plan.rows] for v in plan.kept if plan.rows in axes(v))

    def emit(self, block: Block) -> None:
        for op in block.ops:
            if not isinstance(op, FullOp | YieldOp | ForOp):
                self.b.comment(" ".join(str(op).split()))
            match op:
                case LoadOp() if op in self.plan.views:
                    self._view(op)
                case LoadOp() if len(axes(op.result)) == 2:
                    self._load(op)
                case DotOp() if self._sums_keys(op):
                    self._weigh(op)
                case DotOp():
                    self._compare(op)
                case MapOp() | MaskOp() if op.results[0] in self.plan.kept:
                    self._elementwise(op.results[0], op.results[0])
                case ReduceOp():
                    self._reduce(op)
                case StoreOp():
                    self._store(op)
                case ForOp():
                    self._loop(op)

    def _loop(self, op: ForOp) -> None:
        for initial, argument in zip(op.initial, op.carried, strict=True):
            self._elementwise(argument, initial)
        yields = op.body.block.last_op
        assert isinstance(yields, YieldOp)

        def body(frame: Frame) -> None:
            inner = FewRowsEmitter(frame, self.plan, self.packs)
            inner.emit(op.body.block)
            for value, argument in zip(yields.values, op.carried, strict=True):
                inner._elementwise(argument, value)

        walk_ranges(self.f, op, body)

    # ---- tiles with keys, or features of values, in the lanes -----------------------------------------------

    def _over(self, axis: str, width: int) -> Frame:
        """The frame with this axis in the lanes."""
        f = self.f
        reads = CapturedReads({m.name: m for m in f.memories.values()}, axis)
        expressions = reads.expressions = Expressions(f.expressions.math, reads)
        expressions.limits = f.expressions.limits
        spans = f.spans if axis in f.spans else f.spans | {axis: Span(self.b.integer(0), self.b.integer(width))}
        return replace(f, rows=axis, vectors=self.plan.padded(width) // f.lanes, expressions=expressions, spans=spans)

    def _frame_of(self, value: SSAValue) -> Frame:
        axis, width = list(axes(value).items())[-1]
        return self._over(axis, width)

    def _live(self) -> Val:
        count = self.f.spans[self.rows].count
        assert isinstance(count, Val)
        return count

    def _elementwise(self, target: SSAValue, source: SSAValue) -> None:
        """Compute ``source`` where ``target`` is kept, unless it is there."""
        of = self.plan.kept
        if target is not source and of.get(source) == of[target]:
            return
        f, b = self._frame_of(target), self.b
        narrow = target in f.tiles.computed and all(self._on_pairs(use.operation) for use in target.uses)
        chunk: Chunk

        def value(chunk: Chunk) -> Val:
            return chunk.compute(source) if target is source else chunk.value(source)

        if len(axes(target)) == 1:
            chunk = Chunk(f, None, 0, b.integer(0), {})
            b.store(value(chunk), f.row_pointer(target, 0, b.integer(0)), f.align)
            return
        with b.loop(0, self._live(), hint=self.rows) as row:
            known = self._of_row(f, row.iv, source)
            with b.loop(0, f.spans[f.rows].count, f.lanes, hint="lane") as lane:
                chunk = Chunk(f, self.rows, row.iv, lane.iv, known)
                if narrow:
                    pointer = b.at(f.row_pointer(target, row.iv, b.integer(0)), lane.iv, "bf16")
                    b.store(f.expressions.math.narrow(value(chunk), "bf16"), pointer, f.align // 2)
                else:
                    b.store(value(chunk), f.row_pointer(target, row.iv, lane.iv), f.align)

    def _of_row(self, f: Frame, row: Val, value: SSAValue) -> dict[SSAValue, Val]:
        """Operands of ``value`` that are one number for the row, read once."""
        operands, found = [value], {}
        chunk = Chunk(f, self.rows, row, self.b.integer(0), {})
        while operands:
            v = operands.pop()
            if v in self.plan.kept and len(axes(v)) == 1:
                found[v] = chunk.value(v)
            elif (v is value or v not in self.plan.kept) and isinstance(v.owner, MapOp | MaskOp):
                operands += v.owner.operands
        return found

    def _reduce(self, op: ReduceOp) -> None:
        f, b = self._frame_of(op.input), self.b
        empty = empty_value(op)
        maximum = op.kind.data == "max"
        start = b.real(empty, f.vector)
        with b.loop(0, self._live(), hint=self.rows) as row:
            with b.loop(0, f.spans[f.rows].count, f.lanes, [start], hint="lane") as lane:
                x = Chunk(f, self.rows, row.iv, lane.iv, {}).value(op.input)
                x = b.select(f.live_lanes(lane.iv), x, start)
                acc = lane.carried[0]
                lane.yields = [f.expressions.math.maximum(x, acc) if maximum else b.binary("addf", acc, x)]
            total, half = lane.results[0], f.lanes // 2
            while half:  # LLVM makes a chain of scalars of a maximum over lanes
                other = b.shuffle(total, total, [n ^ half for n in range(f.lanes)])
                total = f.expressions.math.maximum(other, total) if maximum else b.binary("addf", total, other)
                half //= 2
            number = b.pure(f"vector.extract {total.ssa}[0] : {f.element} from {total.type}", f.element)
            b.store(number, f.element_pointer(op.result, row.iv))

    # ---- memory -----------------------------------------------------------------------------------------------

    def _view(self, op: LoadOp) -> None:
        """Keys or values, in place where rows have contiguous features."""
        transfers = Transfers(self.f)
        floats = self.f.memories[op.memory].stored in ("bf16", "f16", "f32", "f64")
        self.f.views[op.result] = transfers.view(op, self.packs[op], pairs=floats and self._is_affine(op))

    def _place(self, op: LoadOp | StoreOp, row: Val, value: SSAValue, column: Val) -> Val:
        """Where an element of a row is in memory."""
        feature = list(axes(value))[-1]
        at = {self.rows: self.b.add(self.f.spans[self.rows].start, row), feature: column}
        return Transfers(self.f).address(self.f.memories[op.memory], op.index.data, **at)

    def _contiguous(self, op: LoadOp | StoreOp, value: SSAValue) -> Val:
        """Are features neighbours in memory?"""
        transfers = Transfers(self.f)
        return transfers.is_one(transfers.stride(self.f.memories[op.memory], op.index.data, list(axes(value))[-1]))

    def _load(self, op: LoadOp) -> None:
        """Queries, a row of features each; what the last vector has beyond them is 0."""
        f, b, memory = self._frame_of(op.result), self.b, self.f.memories[op.memory]
        paired = self._is_paired(op.result)
        element, step = ("bf16", 2 * f.lanes) if paired else (f.element, f.lanes)
        width = list(axes(op.result).values())[-1]
        whole = width // step * step
        with b.loop(0, self.count, hint=self.rows) as loop:
            row = b.least(loop.iv, b.sub(self._live(), 1))
            target = f.row_pointer(op.result, loop.iv, b.integer(0))

            def vector(first: Val | int, count: int) -> None:
                pointer, type = b.at(start, first, memory.stored), vec(step, memory.stored)
                mask = b.mask_first(count, step)
                value = b.load(pointer, type) if count == step else b.masked_load(pointer, mask, type)
                b.store(value if paired else f.expressions.as_float(value), b.at(target, first, element), f.align)

            with b.when(self._contiguous(op, op.result)):
                start = self._place(op, row, op.result, b.integer(0))
                if whole:
                    with b.loop(0, whole, step, hint="feature") as feature:
                        vector(feature.iv, step)
                if width > whole:
                    vector(whole, width - whole)
            with b.otherwise():
                if width > whole:
                    b.store(b.zero(vec(step, element)), b.at(target, whole, element), f.align)
                with b.loop(0, width, hint="feature") as feature:
                    value = b.load(self._place(op, row, op.result, feature.iv), memory.stored)
                    b.store(value if paired else f.expressions.as_float(value), b.at(target, feature.iv, element))

    def _store(self, op: StoreOp) -> None:
        b, memory = self.b, self.f.memories[op.memory]
        if len(axes(op.value)) == 1:
            Transfers(self._over(self.rows, self.count)).store(op)
            return
        f = self._frame_of(op.value)
        transfers = Transfers(f)
        width = list(axes(op.value).values())[-1]
        whole = width // f.lanes * f.lanes
        with b.loop(0, self._live(), hint=self.rows) as row:

            def vector(first: Val, mask: Val | None) -> None:
                value = b.load(f.row_pointer(op.value, row.iv, first), f.vector, f.align)
                transfers.put(op, b.at(start, first, memory.stored), value, mask)

            with b.when(self._contiguous(op, op.value)):
                start = self._place(op, row.iv, op.value, b.integer(0))
                if whole:
                    with b.loop(0, whole, f.lanes, hint="feature") as feature:
                        vector(feature.iv, None)
                if width > whole:
                    vector(b.integer(whole), b.mask_first(width - whole, f.lanes))
            with b.otherwise(), b.loop(0, width, hint="feature") as feature:
                value = b.load(f.row_pointer(op.value, row.iv, feature.iv), f.element)
                transfers.put(op, self._place(op, row.iv, op.value, feature.iv), value)

    # ---- products ---------------------------------------------------------------------------------------------

    def _sums_keys(self, op: DotOp) -> bool:
        return op.contracted in self.f.spans

    def _is_paired(self, query: SSAValue) -> bool:
        """Are queries and keys multiplied by the instruction for pairs of bf16?"""
        if not self.f.target.dots_pairs or self.f.element != "f32":
            return False
        dots = [use.operation for use in query.uses]
        loads = [v.owner for dot in dots if isinstance(dot, DotOp) for v in (dot.lhs, dot.rhs)]
        return len(loads) == 2 * len(dots) and all(
            isinstance(op, LoadOp) and self.f.memories[op.memory].stored == "bf16" and self._stays(op) for op in loads
        )

    def _stays(self, op: LoadOp) -> bool:
        """Is the tile a query, or keys in their own type?"""
        return self.rows in axes(op.result) or self._is_affine(op)

    def _is_affine(self, op: LoadOp) -> bool:
        return all(coefficient(e, axis) is not None for e in op.index.data for axis in axes(op.result))

    def _features(self, view: KeyView, pointer: Val, first: Val | int, count: int, *, paired: bool = False) -> Val:
        """A vector of features of one key or value."""
        f, b = self.f, self.b
        lanes = f.lanes * (1 + paired)
        type = vec(lanes, view.element)
        pointer = b.at(pointer, first, view.element)
        value = b.load(pointer, type) if count >= lanes else b.masked_load(pointer, b.mask_first(count, lanes), type)
        return value if paired else f.expressions.as_float(value)

    def _compare(self, op: DotOp) -> None:
        """Pairs of queries and keys, as many at a time as there are lanes."""
        f, b, view = self._frame_of(op.result), self.b, self.f.views[op.rhs]
        rows = min(self.count, f.lanes)
        keys = f.lanes // rows
        count = f.spans[f.rows].count
        assert isinstance(count, Val)
        query = self._frame_of(op.lhs)
        zero = b.real(0.0, f.vector)
        paired = self._is_paired(op.lhs)
        product = self._product(paired)
        step, element = (2 * f.lanes, "bf16") if paired else (f.lanes, f.element)
        with b.loop(0, count, keys, hint=f.rows) as loop:
            pointers = []
            for k in range(keys):
                key = b.least(b.add(loop.iv, k), b.sub(count, 1)) if k else loop.iv
                pointers.append(b.at(view.pointer, b.mul(key, view.stride), view.element))
            self._prefetch(view, loop.iv, keys, range(view.width))

            def products(sums: Sequence[Val], first: Val | int, width: int) -> list[Val]:
                features = [self._features(view, p, first, width, paired=paired) for p in pointers]
                starts = [query.row_pointer(op.lhs, b.integer(r), b.integer(0)) for r in range(rows)]
                queries = [b.load(b.at(p, first, element), vec(step, element), f.align) for p in starts]
                pairs = [(q, x) for q in queries for x in features]
                return [product(q, x, total) for (q, x), total in zip(pairs, sums, strict=True)]

            whole = view.width // step * step
            sums = [zero] * f.lanes
            if whole:
                with b.loop(0, whole, step, sums, hint="feature") as features:
                    features.yields += products(features.carried, features.iv, step)
                sums = features.results
            if view.width > whole:
                sums = products(sums, whole, view.width - whole)
            total = self._add_up(sums)
            for r in range(rows):
                part = total
                if rows > 1:
                    part = b.shuffle(total, total, range(r * keys, (r + 1) * keys))
                b.store(part, f.row_pointer(op.result, b.integer(r), loop.iv), ELEMENT_BYTES[f.element])

    def _add_up(self, vectors: Sequence[Val]) -> Val:
        """The sum of each of as many vectors as there are lanes, in the lane of its number."""
        b, lanes = self.b, len(vectors)
        while half := len(vectors) // 2:
            # one half of either sum is where it belongs: to blend takes less than to shuffle
            stay, move = ([n ^ other | (lanes if n & half else 0) for n in range(lanes)] for other in (0, half))
            pairs = zip(vectors[:half], vectors[half:], strict=True)
            vectors = [b.binary("addf", b.shuffle(x, y, stay), b.shuffle(x, y, move)) for x, y in pairs]
        return vectors[0]

    def _weigh(self, op: DotOp) -> None:
        """Sums of values weighted by probabilities, in registers for all keys of the tile."""
        f, b, view = self._frame_of(op.result), self.b, self.f.views[op.rhs]
        count = self.f.spans[op.contracted].count
        assert isinstance(count, Val)
        vectors = f.vectors
        wide = min(vectors, max(1, min(f.target.accumulators, 16) // self.count))  # widths are mostly powers of 2
        accumulate = PassEmitter(f, Pass(axes(op.result)))._accumulate
        for first in range(0, vectors, wide):
            block = range(first, min(first + wide, vectors))
            # enough sums at a time to hide the latency of fma
            terms = max(1, 8 // (self.count * len(block)))
            sums = [b.real(0.0, f.vector)] * (self.count * len(block) * terms)
            keys = terms * (1 + self._on_pairs(op))
            whole = b.mul(b.binary("divui", count, b.integer(keys)), keys) if keys > 1 else count
            for start, end, step in ((b.integer(0), whole, keys), (whole, count, 1)):
                if start is end:
                    continue
                with b.loop(start, end, step, sums, hint=op.contracted) as loop:
                    self._prefetch(view, loop.iv, step, range(first * f.lanes, min(block.stop * f.lanes, view.width)))
                    loop.yields += self._weighted(op, block, step, loop.iv, loop.carried)
                sums = loop.results
            each = self.count * len(block)
            for n in range(each):
                row, vector = divmod(n, len(block))
                total = sums[n]
                for k in range(1, terms):
                    total = b.binary("addf", total, sums[k * each + n])
                chunk = Chunk(f, self.rows, b.integer(row), b.integer((first + vector) * f.lanes), {})
                b.store(accumulate(op, chunk, total), f.row_pointer(op.result, chunk.row, chunk.lane), f.align)

    def _weighted(self, op: DotOp, block: range, keys: int, key: Val, sums: Sequence[Val]) -> list[Val]:
        """``sums`` and the products of ``keys`` keys; each key, or pair of them, has sums of its own."""
        f, b, view, found = self.f, self.b, self.f.views[op.rhs], list(sums)
        paired = self._on_pairs(op)
        product = self._product(paired)
        for term, k in enumerate(range(0, keys, 1 + paired)):
            together = min(keys, 1 + paired)
            j = b.add(key, k)
            pointers = [b.at(view.pointer, b.mul(b.add(j, n), view.stride), view.element) for n in range(together)]
            if paired:
                values = self._interleaved(view, block, *pointers)
            else:
                values = [self._features(view, pointers[0], v * f.lanes, view.width - v * f.lanes) for v in block]
            for r in range(self.count):
                weight = self._weight(op, r, j, together)
                for n, value in enumerate(values):
                    at = (term * self.count + r) * len(block) + n
                    found[at] = product(weight, value, found[at])
        return found

    def _product(self, paired: bool) -> Callable[[Val, Val, Val], Val]:
        """Products of lanes, or of pairs of bf16 in them, added to a third vector."""
        return partial(add_pairs, self.b) if paired else self.b.fma

    def _on_pairs(self, op: Operation) -> bool:
        """Are values multiplied by the instruction for pairs of bf16, two keys at a time?"""
        return (
            isinstance(op, DotOp)
            and op in self.f.tiles.pairs
            and isinstance(load := op.rhs.owner, LoadOp)
            and self._is_affine(load)
        )

    def _interleaved(self, view: KeyView, block: range, row: Val, partner: Val | None = None) -> list[Val]:
        """Values of two keys, feature by feature; of the last one beside zeros."""
        found: list[Val] = []
        for first in (v * self.f.lanes for v in block[::2]):
            x, y = (
                self._features(view, p, first, view.width - first, paired=True) for p in (row, partner or self.f.zeros)
            )
            found += interleaved(self.b, x, y)
        return found[: len(block)]

    def _weight(self, op: DotOp, row: int, key: Val, together: int) -> Val:
        """The probability of a key in all lanes, or those of two keys; the last one's partner is zero."""
        f, b = self._frame_of(op.lhs), self.b
        if not self._on_pairs(op):
            return b.broadcast(b.load(f.row_pointer(op.lhs, b.integer(row), key), f.element), f.lanes)
        pointer = b.at(f.row_pointer(op.lhs, b.integer(row), b.integer(0)), key, "bf16")
        pair = b.load(pointer, "i32", 2) if together == 2 else b.cast("extui", b.load(pointer, "i16"), "i32")
        return b.bitcast(b.broadcast(pair, f.lanes), vec(2 * f.lanes, "bf16"))

    def _prefetch(self, view: KeyView, row: Val, count: int, features: range) -> None:
        """Ask for these features of rows further on: hardware alone reaches half of what memory gives."""
        for r in range(count if view.in_place else 0):
            start = self.b.at(view.pointer, self.b.mul(self.b.add(row, r + AHEAD), view.stride), view.element)
            for n in features[:: 64 // ELEMENT_BYTES[view.element]]:
                self.b.prefetch(self.b.at(start, n, view.element))


AHEAD = 80  # rows between a prefetch and the use
