"""Products of tiles on matrix registers: the three kinds of :mod:`.tiles`."""

from __future__ import annotations

from collections.abc import Callable

from xdsl.ir import SSAValue

from ...ir.tile import DotOp
from . import amx
from .amx import TILE_BYTES, Tile
from .amx_pack import panels
from .builder import PTR, Val
from .errors import UnsupportedKernelError
from .frame import Frame, TileView
from .plan import axes, row_dot
from .tiles import SIDE, lane_operand, memory_operand, padded
from .transfers import Transfers


class TileDots:
    """Emits one such dot."""

    def __init__(self, frame: Frame, dot: DotOp):
        self.f, self.b, self.dot = frame, frame.b, dot

    def emit(self) -> None:
        kind = self.f.tiles.dots[self.dot]
        lanes = lane_operand(self.dot, self.f.rows)
        view = self.f.tile_views[memory_operand(self.dot, self.f.rows), kind]
        if lanes not in self.f.buffers.of:
            raise UnsupportedKernelError(f"{self.dot}: an operand is not in scratch")
        emit: Callable[[SSAValue, TileView], None] = getattr(self, f"_{kind}")
        emit(lanes, view)

    def _scratch(self, value: SSAValue) -> Val:
        return self.f.scratch[self.f.buffers.of[value]]

    def _pitch(self, value: SSAValue) -> int:
        """Bytes of a tile row in scratch."""
        return self.f.pitch(value) * 4

    def _count(self, axis: str, size: int) -> Val | int:
        return self.f.spans[axis].count if axis in self.f.spans else size

    def _block(self, value: SSAValue, row: Val, lane: Val) -> amx.Pair:
        """A block of a tile of f32: 16 rows of 32 lanes."""
        pointer = self.b.at(self._scratch(value), self.b.mul(row, self._pitch(value)), "i8")
        return amx.beside(self.b, self.b.at(pointer, lane, "f32"), self._pitch(value))

    def _lane_tiles(self, value: SSAValue, lane: Val) -> amx.Right:
        """Pairs with rows in the lanes, as right operand."""

        def tiles(term: Val) -> amx.Pair:
            row = self.b.at(self._scratch(value), self.b.mul(term, amx.ROWS * self._pitch(value)), "i8")
            return amx.beside(self.b, self.b.at(row, lane, "f32"), self._pitch(value))

        return tiles

    def _score(self, lanes: SSAValue, view: TileView) -> None:
        b, f = self.b, self.f
        (axis, size) = next((a, n) for a, n in axes(self.dot.result).items() if a != f.rows)
        packed, terms = padded(view.width) * 2, padded(view.width) // SIDE

        def keys(row: Val) -> amx.Left:
            here = b.less(row, view.in_place)
            stride = b.select(here, view.stride, b.integer(packed))
            base = b.pure(f"arith.select {here.ssa}, {view.pointer.ssa}, {view.packed.ssa} : {PTR}", PTR)
            pointer = b.at(base, b.mul(row, stride), "i8")
            return lambda term: Tile(b.at(pointer, b.mul(term, amx.ROW_BYTES), "i8"), stride)

        with b.loop(0, f.spans[f.rows].count, SIDE, hint="lane") as lane:
            right, count = self._lane_tiles(lanes, lane.iv), self._count(axis, size)
            if terms <= amx.HELD:
                rights = [right(b.integer(n)) for n in range(terms)]
                amx.blocks(b, count, keys, rights, lambda row: self._block(self.dot.result, row, lane.iv))
                return
            with b.loop(0, count, amx.ROWS, hint=axis) as row:
                amx.block(b, terms, keys(row.iv), right, None, self._block(self.dot.result, row.iv, lane.iv))

    def _sum(self, lanes: SSAValue, view: TileView) -> None:
        b, f, dot = self.b, self.f, self.dot
        size = axes(lanes)[dot.contracted]
        terms = self._terms(self._count(dot.contracted, size))
        step, panel = b.integer(amx.ROW_BYTES), panels(size)
        with (
            b.loop(0, f.spans[f.rows].count, SIDE, hint="lane") as lane,
            b.loop(0, view.width, amx.ROWS, hint="feature") as feature,
        ):
            base = b.at(view.packed, b.mul(feature.iv, panel * TILE_BYTES // amx.ROWS), "i8")

            def features(term: Val) -> Tile:
                return Tile(b.at(base, b.mul(term, TILE_BYTES), "i8"), step)

            start = None if dot.acc is None else self._block(dot.acc, feature.iv, lane.iv)
            result = self._block(dot.result, feature.iv, lane.iv)
            amx.block(b, terms, features, self._lane_tiles(lanes, lane.iv), start, result)

    def _terms(self, count: Val | int) -> Val | int:
        if isinstance(count, int):
            return padded(count) // SIDE
        return self.b.binary("divui", self.b.add(count, SIDE - 1), self.b.integer(SIDE))

    def _row(self, computed: SSAValue, view: TileView) -> None:
        """Blocks go through scratch: memory may have any stride, and ends anywhere."""
        b, f, store = self.b, self.f, row_dot(self.dot)[2]
        axis, size = next((a, n) for a, n in axes(computed).items() if a != f.rows)
        memory, transfers = f.memories[store.memory], Transfers(f)
        feature = list(axes(memory_operand(self.dot, f.rows)))[1]
        stride = transfers.stride(memory, store.index.data, feature)
        if stride is None:
            raise UnsupportedKernelError(f"{store}: the index must be affine in {feature!r}")
        contiguous = b.cmpi("eq", stride, b.integer(1))
        count, start = self._count(axis, size), f.spans[axis].start if axis in f.spans else b.integer(0)
        terms = self._terms(f.spans[f.rows].count)
        pitch = self._pitch(computed)
        with b.loop(0, count, amx.ROWS, hint=axis) as row, b.loop(0, view.width, SIDE, hint="feature") as column:
            base = b.at(self._scratch(computed), b.mul(row.iv, pitch), "i8")

            def left(term: Val) -> Tile:
                return Tile(b.at(base, b.mul(term, amx.ROW_BYTES), "i8"), b.integer(pitch))

            def features(term: Val) -> amx.Pair:
                pointer = b.at(view.packed, b.mul(term, amx.ROWS * padded(view.width) * 4), "i8")
                return amx.beside(b, b.at(pointer, column.iv, "i32"), padded(view.width) * 4)

            amx.block(b, terms, left, features, None, amx.beside(b, self.f.part, SIDE * 4))
            height = b.least(b.sub(count if isinstance(count, Val) else b.integer(count), row.iv), amx.ROWS)
            with b.loop(0, height, hint="line") as line, b.loop(0, SIDE, f.lanes, hint="half") as half:
                first = b.add(column.iv, half.iv)
                at = {axis: b.add(start, b.add(row.iv, line.iv)), feature: first}
                pointer = transfers.address(memory, store.index.data, **at)
                offset = b.add(b.mul(line.iv, SIDE), half.iv)
                value = b.load(b.at(self.f.part, offset, "f32"), f.vector, f.align)
                mask = b.mask_below(b.sub(b.integer(view.width), first), f.lanes)
                with b.when(contiguous):
                    transfers.put(store, pointer, value, mask)
                with b.otherwise():
                    transfers.put_strided(store, pointer, value, stride, mask)
