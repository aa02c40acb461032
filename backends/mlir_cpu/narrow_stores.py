"""Computed operands of products of bf16: rounded where the pass that makes them stores them."""

from __future__ import annotations

from xdsl.ir import SSAValue

from .builder import Val, vec
from .frame import Frame
from .tiles import SIDE


class NarrowStores:
    """Writes the chunks of one pass, row by row: two rows make a row of pairs."""

    def __init__(self, frame: Frame):
        self.f, self.b = frame, frame.b
        self.bits = vec(frame.lanes, "i32")
        self.even: dict[tuple[SSAValue, Val], Val] = {}

    def put(self, value: SSAValue, row: Val, lane: Val, what: Val, r: int, height: int) -> None:
        """Row ``row``, the ``r``-th of ``height`` that start at an even one unless they are one."""
        b, f = self.b, self.f
        if f.tiles.computed[value] == "plain":
            # products add up all lanes: one past the last row may hold an infinity, of which times 0 would be NaN
            what = b.select(f.live_lanes(lane), what, b.zero(f.vector))
            pointer = b.at(f.row_pointer(value, row, b.integer(0)), lane, "bf16")
            b.store(b.cast("truncf", what, vec(f.lanes, "bf16")), pointer, 32)
            return
        half = b.binary("addi", b.bitcast(what, self.bits), b.integer(0x8000, self.bits))
        if height == 1:
            self._alone(value, row, lane, half)
        elif r % 2 == 0 and r + 1 < height:
            self.even[value, lane] = half
        elif r % 2 == 0:  # the last of an odd number
            low = b.binary("shrui", half, b.integer(16, self.bits))
            b.store(low, self._pointer(value, row, lane), f.align)
        else:
            low = self.even.pop((value, lane))
            b.store(self._pair(low, half), self._pointer(value, b.sub(row, 1), lane), f.align)

    def _pair(self, low: Val, high: Val) -> Val:
        b = self.b
        low, mask = b.binary("shrui", low, b.integer(16, self.bits)), b.integer(-0x10000, self.bits)
        # low | high & mask: written as such, LLVM makes a shuffle of it that takes three times as long
        parts = [low, high, mask, b.integer(0xF8, "i32")]
        return b.intrinsic("llvm.x86.avx512.pternlog.d.512", parts, self.bits)

    def _upper(self, half: Val) -> Val:
        return self.b.binary("andi", half, self.b.integer(-0x10000, self.bits))

    def _pointer(self, value: SSAValue, row: Val, lane: Val) -> Val:
        return self.f.row_pointer(value, self.b.binary("shrsi", row, self.b.integer(1)), lane)

    def _alone(self, value: SSAValue, row: Val, lane: Val, half: Val) -> None:
        """An even row starts a pair whose other half is zero, an odd one completes a pair."""
        b, f = self.b, self.f
        pointer = self._pointer(value, row, lane)
        odd = b.cmpi("eq", b.binary("andi", row, b.integer(1)), b.integer(1))
        low = b.binary("shrui", half, b.integer(16, self.bits))
        both = b.binary("ori", b.load(pointer, self.bits, f.align), self._upper(half))
        b.store(b.select(odd, both, low), pointer, f.align)

    def finish(self, value: SSAValue, count: Val | int) -> None:
        """Zeros for what pads pairs of ``count`` rows to a whole block."""
        b, f = self.b, self.f
        if f.tiles.computed[value] == "plain" or (isinstance(count, int) and count % SIDE == 0):
            return  # rows do not meet
        if not f.tiles.dots:
            return  # vector registers multiply only the pairs that there are
        rows = count if isinstance(count, Val) else b.integer(count)
        one = b.integer(1)
        first = b.binary("shrsi", b.add(rows, 1), one)
        end = b.binary("shrsi", b.binary("andi", b.add(rows, SIDE - 1), b.integer(-SIDE)), one)
        with b.loop(first, end, hint="pair") as pair, b.loop(0, f.row_width, f.lanes, hint="lane") as lane:
            b.store(b.zero(self.bits), f.row_pointer(value, pair.iv, lane.iv), f.align)
