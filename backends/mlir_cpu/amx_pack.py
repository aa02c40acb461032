"""Operands of products of bf16: read in place, or packed into scratch with zeros around them.

Scratch holds whole blocks of 32 by 32.  What pads the axis that is summed must be zero on both sides.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.tile import LoadOp
from . import amx
from .builder import PTR, Val, vec
from .frame import Frame, KeyView, TileView
from .memory import Memory
from .pairs import interleaved
from .plan import axes
from .positions import tabulate
from .tiles import SIDE, padded
from .transfers import Transfers


def panels(rows: int) -> int:
    """Tiles side by side in a transposed operand of so many rows."""
    return padded(rows) // SIDE


def packed_bytes(op: LoadOp) -> int:
    """Scratch that an operand may need."""
    rows, width = axes(op.result).values()
    return padded(rows) * padded(width) * 2


class Packs:
    """Emits the operand ``op`` of products of a kind."""

    def __init__(self, frame: Frame, op: LoadOp, scratch: Val):
        self.f, self.b, self.op, self.scratch = frame, frame.b, op, scratch
        self.memory: Memory = frame.memories[op.memory]
        (self.axis, self.rows), (self.feature, self.width) = axes(op.result).items()
        span = frame.spans.get(self.axis)
        self.start = span.start if span else self.b.integer(0)
        self.count = self._as_val(span.count if span else self.rows)
        self.transfers = Transfers(frame)
        self.half, self.pairs = vec(2 * frame.lanes, "bf16"), vec(frame.lanes, "i32")
        stride = self.transfers.stride(self.memory, op.index.data, self.feature)
        self.contiguous = self.transfers.is_one(stride)

    def row_pairs(self) -> KeyView:
        """Pairs of neighbouring rows for vector registers."""
        b = self.b
        tabulate(self.f, self.op.index.data, self.axis, self.rows, [self.feature])
        with b.when(self.contiguous):
            self._paired()
        with b.otherwise():
            rows, step = (self.transfers.stride(self.memory, self.op.index.data, a) for a in (self.axis, self.feature))
            if step is None:
                self._scalars(self._paired_offset, b.integer(0))
            else:
                with b.when(self.transfers.is_one(rows)):
                    self._paired_words(step)
                with b.otherwise():
                    self._scalars(self._paired_offset, b.integer(0))
        return KeyView(self.scratch, b.integer(padded(self.width)), (self.axis, self.feature), self.width, False, "i32")

    def _as_val(self, value: Val | int) -> Val:
        return value if isinstance(value, Val) else self.b.integer(value)

    def view(self, kind: str) -> TileView:
        if kind == "score":
            return self._natural()
        zero = self.b.integer(0)
        with self.b.when(self.contiguous):
            (self._transposed if kind == "sum" else self._paired)()
        with self.b.otherwise():
            self._scalars(self._transposed_offset if kind == "sum" else self._paired_offset, zero)
        return TileView(zero, self.scratch, zero, self.scratch, self.width)

    # ---- rows as they are ------------------------------------------------------------------------------

    def _natural(self) -> TileView:
        """Whole blocks are read in place if no row crosses a cache line; other rows are copied."""
        b = self.b
        stride = self.transfers.stride(self.memory, self.op.index.data, self.axis)
        pointer, step, in_place = self.scratch, b.integer(0), b.integer(0)
        if stride is not None and self.width % SIDE == 0:
            pointer = self._row(b.integer(0))
            step = b.mul(stride, 2)
            number = b.op(f"llvm.ptrtoint {pointer.ssa} : {PTR} to i64", "i64")
            crossing = b.binary("andi", b.binary("ori", number, step), b.integer(amx.ROW_BYTES - 1))
            aligned = b.binary("andi", b.cmpi("eq", crossing, b.integer(0)), self.contiguous)
            in_place = b.select(aligned, self._whole(self.count), b.integer(0))
        end = self._whole(b.add(self.count, SIDE - 1))
        with b.when(self.contiguous), b.loop(in_place, end, hint=self.axis) as row:
            source = self._live_row(row.iv)
            target = b.at(self.scratch, b.mul(row.iv, padded(self.width)), "bf16")
            self._features(lambda first, mask: b.store(self._read(source, first, mask), b.at(target, first, "bf16")))
        with b.otherwise():
            self._scalars(lambda row, e: b.add(b.mul(row, padded(self.width)), e), in_place)
        return TileView(in_place, pointer, step, self.scratch, self.width)

    def _whole(self, count: Val) -> Val:
        return self.b.binary("andi", count, self.b.integer(-SIDE))

    def _row(self, row: Val) -> Val:
        at = {self.axis: self.b.add(self.start, row), self.feature: self.b.integer(0)}
        return self.transfers.address(self.memory, self.op.index.data, **at)

    def _live_row(self, row: Val) -> Val:
        """Pointer to a row; to zeros for those beyond the end."""
        b = self.b
        live = b.less(row, self.count)
        return b.pure(f"arith.select {live.ssa}, {self._row(row).ssa}, {self.f.zeros.ssa} : {PTR}", PTR)

    def _features(self, emit: Callable[[Val, Val | None], None]) -> None:
        """Run ``emit(first feature, mask of the live ones)`` for every block."""
        b = self.b
        with b.loop(0, self.width, SIDE, hint="feature") as loop:
            mask = None
            if self.width % SIDE:
                mask = b.mask_below(b.sub(b.integer(self.width), loop.iv), SIDE)
            emit(loop.iv, mask)

    def _read(self, row: Val, first: Val, mask: Val | None) -> Val:
        pointer = self.b.at(row, first, "bf16")
        return self.b.load(pointer, self.half) if mask is None else self.b.masked_load(pointer, mask, self.half)

    # ---- changed order ---------------------------------------------------------------------------------

    def _transposed(self) -> None:
        """Tile ``(feature // 16, row // 32)`` holds 16 features of 32 rows, one feature after the other.

        Pairs of rows go through scratch: straight-line code for a whole block would take long to compile.
        """
        b, lanes, part, panel = self.b, self.f.lanes, self.f.part, panels(self.rows) * amx.TILE_BYTES
        with b.loop(0, self.count, SIDE, hint=self.axis) as row:

            def pack(first: Val, mask: Val | None) -> None:
                with b.loop(0, SIDE // 2, hint="pair") as pair:
                    rows = [self._live_row(b.add(row.iv, b.add(b.mul(pair.iv, 2), n))) for n in range(2)]
                    target = b.at(part, b.mul(pair.iv, lanes), "i32")
                    for half, value in enumerate(self._interleaved(*(self._read(r, first, mask) for r in rows))):
                        b.store(value, b.at(target, half * amx.TILE_BYTES, "i8"), 64)
                tile = b.add(b.mul(first, panel // amx.ROWS), b.mul(row.iv, SIDE))
                with b.loop(0, 2, hint="half") as half:
                    source = b.at(part, b.mul(half.iv, amx.TILE_BYTES), "i8")
                    target = b.at(b.at(self.scratch, tile, "i8"), b.mul(half.iv, panel), "i8")
                    pairs = [b.load(b.at(source, n * lanes, "i32"), self.pairs, 64) for n in range(amx.ROWS)]
                    for n, value in enumerate(self.transfers.transpose(pairs)):
                        b.store(value, b.at(target, n * lanes, "i32"), 64)

            self._features(pack)

    def _paired(self) -> None:
        """Rows ``2n`` and ``2n + 1`` side by side, feature by feature."""
        b = self.b
        block = SIDE if self.f.tiles.dots else 2
        end = b.binary("andi", b.add(self.count, block - 1), b.integer(-block))
        pairs = b.binary("shrsi", end, b.integer(1))
        with b.loop(0, pairs, hint=self.axis) as pair:
            rows = [self._live_row(b.add(b.mul(pair.iv, 2), n)) for n in range(2)]
            target = b.at(self.scratch, b.mul(pair.iv, padded(self.width)), "i32")

            def pack(first: Val, mask: Val | None) -> None:
                for n, value in enumerate(self._interleaved(*(self._read(r, first, mask) for r in rows))):
                    b.store(value, b.at(b.at(target, first, "i32"), n * self.f.lanes, "i32"), 64)

            self._features(pack)

    def _paired_words(self, step: Val) -> None:
        """The same where rows lie side by side, so that pairs are words of memory: squares of them are transposed."""
        b, pitch = self.b, padded(self.width)
        with b.loop(0, self.count, SIDE, hint=self.axis) as row:
            left = b.sub(self.count, row.iv)

            def block(first: Val, count: int) -> None:
                at = {self.axis: b.add(self.start, row.iv), self.feature: first}
                start = self.transfers.address(self.memory, self.op.index.data, **at)
                target = b.at(self.scratch, b.add(b.mul(row.iv, pitch // 2), first), "i32")
                arguments, name = [start, step, target, left], f"pair_{count}_{pitch}"
                self.f.call(name, arguments, lambda inner, args: _pair_words(inner, count, pitch, *args))

            self.transfers.blocks(self.width, block)

    def _interleaved(self, x: Val, y: Val) -> tuple[Val, Val]:
        """Pairs of the elements of two rows: those of the first 16 features, and of the last."""
        low, high = (self.b.bitcast(pairs, self.pairs) for pairs in interleaved(self.b, x, y))
        return low, high

    # ---- features that are not contiguous --------------------------------------------------------------

    def _scalars(self, offset: Callable[[Val, Val], Val], first: Val) -> None:
        """Element by element, to ``offset(row, feature)``, after all of the scratch is zero."""
        b = self.b
        with b.loop(0, packed_bytes(self.op), 64, hint="byte") as byte:
            b.store(b.zero(self.pairs), b.at(self.scratch, byte.iv, "i8"), 64)
        with b.loop(first, self.count, hint=self.axis) as row, b.loop(0, self.width, hint=self.feature) as column:
            at = {self.axis: b.add(self.start, row.iv), self.feature: column.iv}
            value = b.load(self.transfers.address(self.memory, self.op.index.data, **at), self.memory.stored)
            b.store(value, b.at(self.scratch, offset(row.iv, column.iv), "bf16"))

    def _transposed_offset(self, row: Val, e: Val) -> Val:
        b, width = self.b, panels(self.rows) * amx.TILE_BYTES // 2
        tile = b.add(b.mul(b.binary("shrsi", e, b.integer(4)), width), b.mul(self._whole(row), amx.ROWS))
        inside = b.add(b.mul(b.binary("andi", e, b.integer(15)), SIDE), b.binary("andi", row, b.integer(SIDE - 1)))
        return b.add(tile, inside)

    def _paired_offset(self, row: Val, e: Val) -> Val:
        b, one = self.b, self.b.integer(1)
        pair = b.mul(b.binary("shrsi", row, one), 2 * padded(self.width))
        return b.add(b.add(pair, b.mul(e, 2)), b.binary("andi", row, one))


def _pair_words(f: Frame, count: int, pitch: int, start: Val, step: Val, target: Val, left: Val) -> None:
    """``count`` features, ``step`` apart, of 32 rows of which ``left`` are live."""
    b, pairs = f.b, vec(f.lanes, "i32")
    live = b.mask_below(left, SIDE)
    words = [
        b.bitcast(b.masked_load(b.at(start, b.mul(step, n), "bf16"), live, vec(SIDE, "bf16")), pairs)
        for n in range(count)
    ]
    words += [b.zero(pairs)] * (f.lanes - count)
    for n, value in enumerate(Transfers(f).transpose(words)):
        b.store(value, b.at(target, n * pitch, "i32"), f.align)


def load_lanes(frame: Frame, op: LoadOp) -> None:
    """A query tile into its buffer: pairs of features, rows in the lanes; zeros beyond the last feature."""
    f, b, transfers = frame, frame.b, Transfers(frame)
    memory = f.memories[op.memory]
    feature, width = next((a, n) for a, n in axes(op.result).items() if a != f.rows)
    half, pairs = vec(2 * f.lanes, "bf16"), vec(f.lanes, "i32")
    start = f.spans[f.rows].start
    stride = transfers.stride(memory, op.index.data, feature)
    with b.when(transfers.is_one(stride)), b.loop(0, f.row_width, f.lanes, hint="lane") as lane:
        rows = []
        for n in range(f.lanes):
            row = b.add(start, transfers.last_live(b.add(lane.iv, n)))
            rows.append(transfers.address(memory, op.index.data, **{f.rows: row, feature: b.integer(0)}))
        with b.loop(0, width, SIDE, hint=feature) as column:
            pointers = [b.at(r, column.iv, "bf16") for r in rows]
            if width % SIDE:
                mask = b.mask_below(b.sub(b.integer(width), column.iv), SIDE)
                vectors = [b.masked_load(p, mask, half) for p in pointers]
            else:
                vectors = [b.load(p, half) for p in pointers]
            target = f.row_pointer(op.result, b.binary("shrsi", column.iv, b.integer(1)), lane.iv)
            for n, value in enumerate(transfers.transpose([b.bitcast(v, pairs) for v in vectors])):
                b.store(value, b.at(target, n * f.pitch(op.result), f.element), f.align)
    with b.otherwise():
        with b.loop(0, padded(width) // 2, hint="pair") as pair, b.loop(0, f.row_width, f.lanes, hint="lane") as lane:
            b.store(b.zero(pairs), f.row_pointer(op.result, pair.iv, lane.iv), f.align)
        with b.loop(0, f.row_width, hint=f.rows) as row, b.loop(0, width, hint=feature) as column:
            at = {f.rows: b.add(start, transfers.last_live(row.iv)), feature: column.iv}
            value = b.load(transfers.address(memory, op.index.data, **at), memory.stored)
            pointer = f.row_pointer(op.result, b.binary("shrsi", column.iv, b.integer(1)), row.iv)
            b.store(value, b.at(pointer, b.binary("andi", column.iv, b.integer(1)), memory.stored))
