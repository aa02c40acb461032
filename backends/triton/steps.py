"""Grid dimensions that run in order within one task: a loop for each around the kernel's body.

Printed from the outside in: ``level`` n is inside n of these loops.  Loads that depend on fewer of them stand further
out, and a sum over the inner ones stays in registers::

    dk = tl.zeros(...)                      stores that add dk to the same elements at every step
    for g in range(0, 4):                   become one store after the last
        for start in range(0, N, 64): dk = tl.dot(..., acc=dk)
    tl.store(dk_base + ..., dk)

Other stores that add load what an earlier step stored; a barrier stands between them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from ...ir.expr import Const, Expr, Op, Var, free_vars
from ...ir.tile import BandAddOp, DotOp, ForOp, FullOp, KernelOp, LoadOp, MapOp, StoreOp
from .widths import apart


@dataclass(frozen=True)
class Sum:
    """A store that may wait: ``zeros`` before the steps, the linear ``after`` (the store last) behind them."""

    zeros: FullOp
    after: list[Operation]


class Steps:
    """Where the parts of a kernel stand among its sequential dimensions."""

    def __init__(self, kernel: KernelOp):
        dims = kernel.grid.data
        self.dims = dims[len(dims) - kernel.sequential.data :]
        rows = kernel.rows.data
        self.of_rows = self.level(free_vars(rows.base) | free_vars(rows.bound))
        self.before: list[list[Operation]] = [[] for _ in range(len(self.dims) + 1)]
        self.after: list[list[Operation]] = [[] for _ in range(len(self.dims) + 1)]
        stores = [op for op in kernel.body.walk() if isinstance(op, StoreOp)]
        inputs = kernel.args[: len(kernel.args) - kernel.outputs.data]
        for op in kernel.body.block.ops:
            if isinstance(op, LoadOp) and op.memory in inputs and (level := self._level(op)) < len(self.dims):
                self.before[level].append(op)
        waiting: set[Operation] = set()
        for op in stores:
            level = self._level(op)
            found = _sum(op) if level < len(self.dims) and op.parent is kernel.body.block else None
            if found and not any(s is not op and s.memory is op.memory and not apart(s, op) for s in stores):
                self.before[level].append(found.zeros)
                self.after[level] += found.after
                waiting.add(op)
        self.waiting = waiting  # stores that write a finished sum
        self.moved = {op for ops in (*self.before, *self.after) for op in ops}
        # do steps load what others stored?
        self.reread = any(op.add is not None and op not in waiting for op in stores)
        self.reread |= any(isinstance(op, BandAddOp) for op in kernel.body.walk())

    def _level(self, op: LoadOp | StoreOp) -> int:
        """Where an access to the same addresses may stand."""
        return max(self.of_rows, self.level(set().union(*(free_vars(e) for e in op.index.data))))

    def level(self, names: Collection[str]) -> int:
        """How many sequential dimensions stand around the first place where all of ``names`` are known."""
        return max((n + 1 for n, d in enumerate(self.dims) if d.name in names), default=0)


def _sum(store: StoreOp) -> Sum | None:
    """The store's value as linear functions of one sum that starts at zero."""
    if store.add is None:
        return None
    after: list[Operation] = [store]
    value = store.value
    while isinstance(op := value.owner, MapOp) and value.has_one_use() and len(op.inputs) == 1 and _linear(op):
        after.append(op)
        value = op.inputs[0]
    while isinstance(op := value.owner, ForOp):
        n = list(op.results_).index(value)  # type: ignore[arg-type]
        if not value.has_one_use() or not _adds_only(op, n):
            return None
        value = op.initial[n]
    if value is store.value or not isinstance(op, FullOp) or not value.has_one_use():
        return None
    return Sum(op, after[::-1]) if op.value.data.body == Const(0.0) else None


def _adds_only(loop: ForOp, n: int) -> bool:
    """Is carried value ``n`` only ever added to?"""
    last = loop.body.block.last_op
    assert last is not None
    carried, value = loop.carried[n], last.operands[n]
    while value is not carried:
        op = value.owner
        if not isinstance(op, DotOp | MapOp) or len(list(value.uses)) != 1 or op.parent is not loop.body.block:
            return False
        inner = op.acc if isinstance(op, DotOp) else _augend(op)
        if inner is None:
            return False
        value = inner
    return carried.has_one_use()


def _augend(op: MapOp) -> SSAValue | None:
    """``x`` of a map ``x + y``."""
    match op.function.data.body:
        case Op("+", (Var(a), Var(b))) if a != b and a in op.function.data.params:
            return op.inputs[op.function.data.params.index(a)]
    return None


def _linear(op: MapOp) -> bool:
    """Is a map of one tile linear in it, so that it may be applied to a sum?"""
    (name,) = op.function.data.params

    def constant(e: Expr) -> bool:
        return not free_vars(e)

    match op.function.data.body:
        case Var(x):
            return x == name
        case Op("*", (Var(x), c)) | Op("*", (c, Var(x))) | Op("/", (Var(x), c)):
            return x == name and constant(c)
    return False
