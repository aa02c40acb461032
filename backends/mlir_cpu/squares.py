"""Captured tensors with an element for each pair, such as a bias, whose rows lie apart in memory.

With rows in the lanes, to read one key's elements is a gather.  A step of the loop reads squares instead, a vector of
keys of each row, and transposes them in registers into scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial

from ...ir.expr import ONE, Load, free_vars, loads
from ...ir.tile import ForOp, KernelOp, MapOp, MaskOp
from .builder import ELEMENT_BYTES, Val, vec
from .frame import Frame
from .memory import Memory, coefficient
from .transfers import Transfers

READ_AS = ("f64", "f32", "bf16", "f16", "i1")


@dataclass(frozen=True)
class Square:
    """A read in a loop, and which of its indices are the row and the key, each with a number added."""

    read: Load
    row: int
    key: int


def squares(kernel: KernelOp, held: Collection[Load]) -> dict[ForOp, list[Square]]:
    """The reads of each loop that may be squares, less those ``held``; strides decide when the kernel runs."""
    rows = kernel.rows.data.name
    loops = [op for op in kernel.walk() if isinstance(op, ForOp)]
    found = {
        loop: [_square(read, rows, loop.axis.data) for read in dict.fromkeys(_reads(loop)) if read not in held]
        for loop in loops
    }
    return {loop: kept for loop, of in found.items() if (kept := [s for s in of if s is not None])}


def _reads(loop: ForOp) -> Iterator[Load]:
    for op in loop.body.block.ops:
        if isinstance(op, MapOp):
            yield from loads(op.function.data.body)
        elif isinstance(op, MaskOp):
            yield from loads(op.condition.data)


def _square(read: Load, row: str, key: str) -> Square | None:
    places = [[n for n, e in enumerate(read.index) if axis in free_vars(e)] for axis in (row, key)]
    match places:
        case [[r], [k]] if r != k and coefficient(read.index[r], row) == coefficient(read.index[k], key) == ONE:
            return Square(read, r, k)
    return None


def room_for(loop: ForOp, f: Frame) -> int:
    """Bytes of one square."""
    return -(-loop.step.data // f.lanes) * f.lanes * f.row_width * ELEMENT_BYTES[f.element]


def with_squares(f: Frame, loop: ForOp) -> Frame:
    """The frame of a step of the loop, whose squares are read here, in which reads find them."""
    memories = {m.name: m for m in f.memories.values()}
    apart: dict[Load, Callable[[Val | int, Val], Val]] = {}
    for square, room in zip(f.squares.get(loop, ()), f.rooms, strict=False):
        memory = memories[square.read.tensor]
        if memory.element in READ_AS:
            _Fill(f, square, loop.axis.data, memory, room).emit()
            apart[square.read] = partial(_read, f, memory, room)
    return replace(f, apart=apart)


def _read(f: Frame, memory: Memory, room: Val, row: Val | int, lane: Val) -> Val:
    """A vector of rows for one key of the step."""
    b = f.b
    pointer = b.at(b.at(room, b.mul(row, f.row_width), f.element), lane, f.element)
    if memory.element != "i1":
        return b.load(pointer, f.vector, f.align)
    bits = f"i{8 * ELEMENT_BYTES[f.element]}"
    return b.cast("trunci", b.load(pointer, vec(f.lanes, bits), f.align), vec(f.lanes, "i8"))


@dataclass
class _Fill:
    """Reads one square."""

    f: Frame
    square: Square
    axis: str
    memory: Memory
    room: Val

    def emit(self) -> None:
        f, b, x, memory, square = self.f, self.f.b, self.f.expressions, self.memory, self.square
        scope = f.scalar_scope()
        at = [x.scalar(e, scope) for e in square.read.index]
        count = b.add(b.integer(0), f.spans[self.axis].count)
        live = b.add(b.integer(0), f.spans[f.rows].count)
        row, key = at[square.row], at[square.key]
        others = [b.integer(0) if n in (square.row, square.key) else memory.inside(b, n, v) for n, v in enumerate(at)]
        base = memory.address(b, others)
        row_stride, key_stride = memory.strides[square.row], memory.strides[square.key]
        rows = b.least(memory.dims[square.row], b.add(row, live))  # dead ones repeat the last
        keys = memory.dims[square.key]
        with (
            b.when(b.cmpi("ne", row_stride, b.integer(1))),  # else a vector of rows is read where it lies
            b.loop(0, count, f.lanes, hint=self.axis) as step,
            b.loop(0, f.row_width, f.lanes, hint="lane") as lane,
        ):
            first = b.add(key, step.iv)
            start = b.at(base, b.mul(first, key_stride), memory.stored)
            target = b.at(b.at(self.room, b.mul(step.iv, f.row_width), f.element), lane.iv, f.element)
            # of a vector of keys, the first that the tensor has, and where it or the step ends
            low, high = b.sub(b.integer(0), first), b.least(b.sub(keys, first), b.sub(count, step.iv))
            arguments = [start, row_stride, key_stride, b.add(row, lane.iv), rows, low, high, target]
            name = f"square_{memory.element}_{f.row_width}"
            f.call(name, arguments, lambda inner, args: _square_of(inner, memory, f.row_width, *args))


def _square_of(
    f: Frame,
    memory: Memory,
    pitch: int,
    start: Val,
    row_stride: Val,
    key_stride: Val,
    row: Val,
    rows: Val,
    low: Val,
    high: Val,
    target: Val,
) -> None:
    """A vector of keys for each of a vector of rows, transposed; elements that are not there are 0."""
    b, type = f.b, vec(f.lanes, memory.stored)
    numbers = b.iota(vec(f.lanes, "i64"))
    live = b.cmpi("sge", numbers, b.broadcast(low, f.lanes))
    live = b.binary("andi", live, b.cmpi("slt", numbers, b.broadcast(high, f.lanes)))
    last = b.sub(rows, 1)
    starts = [
        b.at(start, b.mul(b.most(b.least(b.add(row, n), last), 0), row_stride), memory.stored) for n in range(f.lanes)
    ]

    def put(read: Callable[[Val], Val]) -> None:
        vectors = Transfers(f).transpose([_in_element(f, read(pointer)) for pointer in starts])
        for n, vector in enumerate(vectors):
            b.store(vector, b.at(target, n * pitch, f.element), f.align)

    with b.when(b.cmpi("eq", key_stride, b.integer(1))):
        put(lambda pointer: b.masked_load(pointer, live, type))
    with b.otherwise():
        steps = b.binary("muli", numbers, b.broadcast(key_stride, f.lanes))
        put(lambda pointer: b.gather(b.at(pointer, steps, memory.stored), live, type))


def _in_element(f: Frame, value: Val) -> Val:
    """A vector of the kernel's element type: bytes of bools by their bits."""
    if value.is_float:
        return f.expressions.as_float(value)
    bits = f"i{8 * ELEMENT_BYTES[f.element]}"
    return f.b.bitcast(f.b.cast("extui", value, vec(f.lanes, bits)), f.vector)
