"""Tensor descriptors: tiles of a loop that the copy engine of Hopper and later fetches by itself.

A tile of plain rows, whose features lie side by side, is fetched by one thread with one instruction, straight into
shared memory; there are no pointers to compute or keep, and rows behind the last one are filled with zeros::

    k_rows = tl.make_tensor_descriptor(k_base, shape=[end, 64], strides=[k_s2 * 8, 1], block_shape=[128, 64])
    for start in range(lo, hi, 128):
        key = k_rows.load([start, 0])

A task makes its own, in memory that Triton asks the launch for, from the base and the stride that the pointers would
have: so a descriptor can say one residue of a dilated sequence, or one window, and its last row is the last one of
that.  What it cannot say (addresses and strides that are no multiples of 16 bytes, features that lie apart, rows that
overlap) only the call shows: the kernel has both ways in it, and ``ROWS`` tells Triton which one to compile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xdsl.ir import Operation

from ...ir import poly
from ...ir.dtypes import itemsize
from ...ir.expr import Const, Var, free_vars, substitute
from ...ir.tile import ForOp, LoadOp, memory_type, tile_type
from .facts import nonnegative
from .layout import padded, padded_shape

if TYPE_CHECKING:
    from .addresses import Linear
    from .emit import Emitter

SHORTEST = 16  # bytes of a row, and what addresses are multiples of
LONGEST = 256  # rows of one fetch
FLAG = "ROWS"

# printed before the kernel, where it has descriptors
DESCRIBE = '''\
def plain_rows(x, axis):
    """Can a descriptor say rows of x along an axis?  It wants multiples of 16 bytes and features side by side."""
    *outer, last = x.stride()
    aligned = all(s * x.element_size() % 16 == 0 for s in outer)
    return last == 1 and aligned and x.data_ptr() % 16 == 0 and x.shape[-1] <= x.stride(axis) < 2**30


def with_scratch(device, start):
    """Call start() with memory for the descriptors; other users of Triton keep their own way of getting some."""

    def scratch(size, alignment, stream):
        return torch.empty(size, dtype=torch.int8, device=device)

    def run():
        triton.set_allocator(scratch)
        start()

    contextvars.copy_context().run(run)
'''


@dataclass(frozen=True)
class Rows:
    """A load of plain rows: the axis of its memory that the loop walks, the distance of rows, the first feature."""

    axis: int
    stride: str
    first: int


class Descriptors:
    """The descriptors of one kernel, each named where the first loop that reads through it begins."""

    def __init__(self, emitter: Emitter):
        self.emitter = emitter
        self.names: dict[str, str] = {}  # code without the end -> name
        self.used: dict[LoadOp, str] = {}
        self.ends: dict[str, str] = {}  # code of an end -> its name
        self.made: list[str] = []  # lines that make descriptors, to be printed
        self.first: dict[LoadOp, int] = {}  # the feature from which on a load reads
        self.exact: set[str] = set()  # names of those that end where every loop ends that reads through them
        self.axes: dict[tuple[str, int], None] = {}  # axes of memories that a launch has to look at

    def enter(self, loop: ForOp, op: LoadOp, linear: Linear) -> str | None:
        """Before a loop: name the descriptor that a load of it reads through; None where there is none.

        The line that makes it is left in ``made``.
        """
        emitter = self.emitter
        rows = self.rows(loop, op, linear)
        if rows is None:
            return None
        base = emitter.addresses.base(op.memory, linear[1])
        shape = emitter.shape(op.result)
        width = rows.first + list(shape.values())[1]
        tail = f"strides=[{rows.stride}, 1], block_shape={padded_shape(shape)}"
        key = f"{base} {width} {tail}"
        if key not in self.names:
            name = emitter.names.fresh(f"{emitter.memory[op.memory]}_rows")
            ends = self._ends(loop, op)
            end = self._end(loop.axis.data, ends)
            self.names[key] = name
            if len(ends) == 1:
                self.exact.add(name)
            self.made.append(f"{name} = tl.make_tensor_descriptor({base}, shape=[{end}, {width}], {tail})")
        self.used[op], self.first[op] = self.names[key], rows.first
        self.axes[emitter.memory[op.memory], rows.axis] = None
        return self.names[key]

    def take(self) -> list[str]:
        """The lines that make descriptors."""
        made, self.made = self.made, []
        return made

    def either(self, described: Sequence[str], pointed: Sequence[str]) -> None:
        """Lines for tensors that descriptors can say, and for those that they cannot."""
        emitter = self.emitter
        branches = [(f"if {FLAG}:", described), ("else:" if described else f"if not {FLAG}:", pointed)]
        for head, lines in branches:
            if lines:
                emitter.line(head)
                with emitter.source.indented():
                    for line in lines:
                        emitter.line(line)

    def _end(self, axis: str, ends: Sequence[str]) -> str:
        """The name of the last end; a descriptor has one row at least."""
        code = ends[0]
        for other in ends[1:]:
            code = f"tl.maximum({code}, {other})"
        if code not in self.ends:
            self.ends[code] = self.emitter.names.fresh(f"{axis}_last")
            self.emitter.line(f"{self.ends[code]} = tl.maximum({code}, 1)")
        return self.ends[code]

    def _ends(self, loop: ForOp, op: LoadOp) -> list[str]:
        """Where the loops end that read the same: a descriptor serves all of them."""
        block = loop.parent
        assert block is not None
        loops = [x for x in block.ops if isinstance(x, ForOp) and x.axis == loop.axis]
        alike = [x for x in loops if any(_same(y, op) for y in x.body.block.ops)]
        return list(dict.fromkeys(hi for x in alike for _, hi in self.emitter.ranges(x)))

    def rows(self, loop: ForOp, op: LoadOp, linear: Linear) -> Rows | None:
        """Does a load read plain rows: the loop's axis in one index, a feature by itself in the last one?"""
        emitter, shape = self.emitter, tile_type(op.result).shape
        moving, rest = linear
        axis, size = loop.axis.data, itemsize(memory_type(op.memory).element)
        features = [a for a in shape if a != axis]
        at = [n for n, e in enumerate(moving) if e != Const(0)]
        if not emitter.config.descriptors or size != 2 or len(features) != 1 or len(at) != 1:
            return None
        first = poly.constant_value(poly.of_expr(op.index.data[-1] - Var(features[0])))
        if first is None or first < 0 or any(features[0] in free_vars(e) for e in rest[:-1]):
            return None
        if shape[features[0]] * size % SHORTEST or at[0] == len(moving) - 1:
            return None
        if padded(shape[axis]) != shape[axis] or shape[axis] > LONGEST:  # a step's end is no end of rows
            return None
        if not all(emitter.addresses.is_fixed(e) for e in rest[:-1]):
            return None
        step = substitute(moving[at[0]], {axis: 1})  # rows from one key to the next
        if not nonnegative(step):
            return None
        name = f"{emitter.memory[op.memory]}_s{at[0]}"
        stride = name if step == Const(1) else f"{emitter.scalar(step).at_least(10)} * {name}"
        return Rows(at[0], stride, first)

    def zero_after(self, op: LoadOp) -> bool:
        """Are elements behind the end of the loop certainly zeros, not just numbers of later rows?"""
        return self.used[op] in self.exact


def _same(a: Operation, b: LoadOp) -> bool:
    return isinstance(a, LoadOp) and a.memory is b.memory and a.index == b.index and a.result.type == b.result.type


def guards(axes: Sequence[tuple[str, int]]) -> str:
    """The condition, for a launch, that descriptors can say what the kernel reads through them."""
    return " and ".join(f"plain_rows({name}, {axis})" for name, axis in axes)
