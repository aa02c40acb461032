"""Kernel arguments in memory: addresses, and guarded reads of captured tensors.

All arguments arrive in one array of 64-bit slots: a task counter, then for every tensor its address, its
sizes and its strides in elements, then the size symbols.  :func:`slots` is the order, shared with the launcher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.expr import ONE, ZERO, Expr, Load, Op, Var, free_vars, op
from .builder import PTR, Builder, Val, vec
from .errors import UnsupportedKernelError
from .expressions import Expressions, Scope

COUNTER = 0  # slot of the task counter


def slots(ranks: Sequence[int]) -> list[int]:
    """The first slot of each tensor, and last the first slot of the sizes."""
    starts = [COUNTER + 1]
    for rank in ranks:
        starts.append(starts[-1] + 1 + 2 * rank)
    return starts


@dataclass(frozen=True)
class Memory:
    """A tensor argument."""

    name: str
    element: str  # type of an element as stored: "f32", "bf16", "i64", "i1" (a byte), ...
    pointer: Val
    dims: tuple[Val, ...]
    strides: tuple[Val, ...]

    @property
    def stored(self) -> str:
        return "i8" if self.element == "i1" else self.element

    def address(self, b: Builder, index: Sequence[Val], hint: str = "") -> Val:
        """Pointer to the element at an index of i64 scalars or vectors."""
        lanes = max((v.lanes for v in index), default=0)
        offset: Val | None = None
        for position, stride in zip(index, self.strides, strict=True):
            if position.lanes:
                term = b.binary("muli", position, b.broadcast(stride, position.lanes))
            else:
                term = b.mul(position, stride)
            if lanes:
                term = b.broadcast(term, lanes)
                offset = term if offset is None else b.binary("addi", offset, term)
            else:
                offset = term if offset is None else b.add(offset, term)
        return self.pointer if offset is None else b.at(self.pointer, offset, self.stored, hint)

    def inside(self, b: Builder, n: int, index: Val) -> Val:
        """An index of dimension ``n``, clamped."""
        return b.most(b.least(index, b.sub(self.dims[n], 1)), 0)

    def stride_along(self, x: Expressions, index: Sequence[Expr], axis: str, scope: Scope) -> Val | None:
        """Elements from one index of ``axis`` to the next, where that is the same everywhere."""
        steps = [coefficient(e, axis) for e in index]
        if None in steps:
            return None
        total = x.b.integer(0)
        for step, stride in zip(steps, self.strides, strict=True):
            if step is not None and step != ZERO:
                total = x.b.add(total, x.b.mul(x.scalar(step, scope), stride))
        return total


def load_arguments(
    b: Builder, slots_of: Val, names: Sequence[str], elements: Sequence[str], ranks: Sequence[int]
) -> dict[str, Memory]:
    """The :class:`Memory` of every argument, read at the start of the function."""
    memories: dict[str, Memory] = {}

    def read(slot: int, type: str, hint: str) -> Val:
        return b.load(b.at(slots_of, slot, "i64"), type, 8, hint)

    for name, element, rank, start in zip(names, elements, ranks, slots(ranks), strict=False):
        memories[name] = Memory(
            name,
            element,
            read(start, PTR, name),
            tuple(read(start + 1 + n, "i64", f"{name}_dim{n}") for n in range(rank)),
            tuple(read(start + 1 + rank + n, "i64", f"{name}_stride{n}") for n in range(rank)),
        )
    return memories


def coefficient(e: Expr, name: str) -> Expr | None:
    """What ``e`` grows by when the variable grows by one; None where that is not one value."""
    if name not in free_vars(e):
        return ZERO
    match e:
        case Var():
            return ONE
        case Op("+" | "-" as sign, (x, y)):
            a, b = coefficient(x, name), coefficient(y, name)
            return None if a is None or b is None else op(sign, a, b)
        case Op("*", (x, y)):
            if name not in free_vars(x):
                x, y = y, x
            if name in free_vars(y):
                return None
            a = coefficient(x, name)
            return None if a is None else op("*", a, y)
    return None


class CapturedReads:
    """Emits reads of captured tensors that stay inside the tensor whatever the index.

    Elements that are dead or masked may have any index: scalars are clamped, lanes predicated or clamped.
    """

    def __init__(self, memories: dict[str, Memory], lane_axis: str):
        self.memories, self.lane_axis = memories, lane_axis
        self.expressions: Expressions  # set once that exists: the two need each other

    def __call__(self, e: Load, index: list[Val], scope: Scope) -> Val:
        if e.tensor not in self.memories:
            raise UnsupportedKernelError(f"the kernel reads {e.tensor!r}, which is not one of its arguments")
        memory = self.memories[e.tensor]
        if len(index) != len(memory.dims):
            raise UnsupportedKernelError(f"{e}: {len(index)} indices for a tensor of rank {len(memory.dims)}")
        value = self._lanes(e, memory, index, scope) if any(v.lanes for v in index) else self._scalar(memory, index)
        if memory.element == "i1":
            return self.expressions.as_bool(value)
        if value.is_float:
            return self.expressions.as_float(value)
        return value if value.lanes else self.expressions.as_int(value, 64)

    def _scalar(self, memory: Memory, index: list[Val]) -> Val:
        b = self.expressions.b
        clamped = [memory.inside(b, n, self.expressions.as_int(v, 64)) for n, v in enumerate(index)]
        return b.load(memory.address(b, clamped), memory.stored)

    def _lanes(self, e: Load, memory: Memory, index: list[Val], scope: Scope) -> Val:
        x, b = self.expressions, self.expressions.b
        lanes = x.lanes
        wide = [x.as_int(v, 64) for v in index]
        mask = scope.live() if scope.live else b.boolean(True, lanes)
        for v, dim in zip(wide, memory.dims, strict=True):
            limit = b.broadcast(dim, v.lanes) if v.lanes else dim
            # one unsigned comparison is both 0 <= v and v < dim
            mask = b.binary("andi", mask, b.broadcast(b.cmpi("ult", v, limit), lanes))
        type = vec(lanes, memory.stored)

        stride = memory.stride_along(x, e.index, self.lane_axis, scope)
        if stride is None or scope.first is None:
            return b.gather(memory.address(b, wide), mask, type)
        first = Scope({**scope.names, self.lane_axis: scope.first()})
        address = memory.address(b, [x.scalar(i, first) for i in e.index])
        near = b.cmpi("eq", stride, b.integer(1))
        if e in scope.apart:

            def read() -> Val:
                value = b.masked_load(address, mask, vec(lanes, memory.stored))
                return x.as_float(value) if value.is_float else value

            return b.choose(near, read, scope.apart[e], type if memory.element == "i1" else vec(lanes, x.float))
        # outside of the branch, where it is seen to be the same in all iterations of the loops around
        steps = b.binary("muli", b.iota(vec(lanes, "i64")), b.broadcast(stride, lanes))
        return b.choose(
            near,
            lambda: b.masked_load(address, mask, type),
            lambda: b.gather(b.at(address, steps, memory.stored), mask, type),
            type,
        )
