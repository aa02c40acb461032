"""Scratch buffers: which values of a plan live in memory, and which may share it.

The working set of a task should stay in the first-level cache, so a value takes over the buffer of an operand
that dies in the same pass, and a carried value is computed in place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from ...ir.tile import BandAddOp, BandDotOp, DotOp, ForOp, LoadOp, YieldOp
from .plan import BlockPlan, Pass, axes


@dataclass
class Buffers:
    """Buffer number of each stored value; ``rows[n]`` is how many rows of ``size`` lanes buffer ``n`` has.

    From row to row of a buffer lie ``pitches[n]`` elements; a row of the tile if that is not set.
    """

    axis: str
    size: int
    of: dict[SSAValue, int] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    pitches: list[int] = field(default_factory=list)

    def rows_of(self, value: SSAValue) -> int:
        return -(-math.prod(axes(value).values()) // self.size)


def assign(plan: BlockPlan, block: Block, axis: str, size: int) -> Buffers:
    """Buffers for a kernel's block and all loops in it; ``axis`` of ``size`` lies in the lanes."""
    buffers = Buffers(axis, size)
    _Assigner(plan, block, buffers, []).run()
    return buffers


class _Assigner:
    def __init__(self, plan: BlockPlan, block: Block, buffers: Buffers, pool: list[int]):
        self.plan, self.block, self.buffers, self.pool = plan, block, buffers, pool
        self.owned: dict[int, SSAValue] = {}  # buffer -> the value of this block that is in it
        self.step_of: dict[Operation, int] = {}
        for n, step in enumerate(plan.steps):
            for op in ([step.dot] if step.dot else []) + step.ops if isinstance(step, Pass) else [step]:
                self.step_of[op] = n

    def run(self) -> None:
        for n, step in enumerate(self.plan.steps):
            if isinstance(step, Pass):
                for value in step.stored:
                    self._define(value, n)
            elif isinstance(step, LoadOp | BandDotOp) or (
                isinstance(step, DotOp) and self.buffers.axis in axes(step.result)
            ):
                self._define(step.result, n)
            elif isinstance(step, ForOp):
                self._loop(step, n)
            for buffer, value in list(self.owned.items()):
                if self._last_read(value) <= n:
                    self._release(buffer)
        for buffer in list(self.owned):
            self._release(buffer)

    def _release(self, buffer: int) -> None:
        del self.owned[buffer]
        self.pool.append(buffer)

    def _reads(self, value: SSAValue) -> list[tuple[int, bool]]:
        """The steps that read a value, and whether each reads only the element that it is about to write."""
        found = []
        for use in value.uses:
            user = use.operation
            while user.parent_block() is not self.block:
                user = user.parent_op()  # a use inside a loop is a use by the loop
                assert user is not None
            if isinstance(user, YieldOp):
                found.append((len(self.plan.steps), False))
            elif user in self.step_of:
                whole = isinstance(user, ForOp) or (isinstance(user, DotOp | BandDotOp) and user.acc is not value)
                whole |= isinstance(user, BandAddOp)
                found.append((self.step_of[user], not whole))
            else:  # computed again wherever its result is used
                found += self._reads(user.results[0])
        return found

    def _last_read(self, value: SSAValue) -> int:
        return max((n for n, _ in self._reads(value)), default=-1)

    def _new(self, rows: int) -> int:
        for buffer in self.pool:
            if self.buffers.rows[buffer] == rows:
                self.pool.remove(buffer)
                return buffer
        self.buffers.rows.append(rows)
        return len(self.buffers.rows) - 1

    def _define(self, value: SSAValue, step: int) -> None:
        rows, of = self.buffers.rows_of(value), self.buffers.of
        slot = self._carried_slot(self._accumulated(value), step)
        if slot is not None:
            of[value] = of[slot]
            return
        for buffer, old in self.owned.items():
            if self.buffers.rows[buffer] == rows and self._dies_in_place(old, step) and axes(old) == axes(value):
                of[value] = buffer
                break
        else:
            of[value] = self._new(rows)
        self.owned[of[value]] = value

    def _accumulated(self, value: SSAValue) -> SSAValue:
        """What a dot adds to ``value``, if that is its only use: the sum belongs in the same place."""
        uses = [use.operation for use in value.uses]
        return (
            uses[0].result
            if len(uses) == 1 and isinstance(uses[0], DotOp | BandDotOp) and uses[0].acc is value
            else value
        )

    def _dies_in_place(self, value: SSAValue, step: int) -> bool:
        """Is ``step`` the last to read the value, element by element, and not the one that made it?"""
        reads = self._reads(value)
        made_here = isinstance(value.owner, Operation) and self.step_of.get(value.owner) == step
        return not made_here and bool(reads) and all(n < step or (n == step and same) for n, same in reads)

    def _carried_slot(self, value: SSAValue, step: int) -> BlockArgument | None:
        """The loop argument whose next value this is, if it can be overwritten now."""
        slots = [n for n, v in enumerate(self.plan.yields) if v is value]
        if len(slots) != 1:
            return None
        argument = self.block.args[slots[0]]
        reads = self._reads(argument)
        return argument if all(n < step or (n == step and same) for n, same in reads) else None

    def _loop(self, loop: ForOp, step: int) -> None:
        of = self.buffers.of
        for initial, argument, result in zip(loop.initial, loop.carried, loop.results_, strict=True):
            buffer = of.get(initial)
            if buffer is None or self.owned.get(buffer) is not initial or len(list(initial.uses)) != 1:
                buffer = self._new(self.buffers.rows_of(argument))
            of[argument] = of[result] = buffer
            self.owned[buffer] = result
        _Assigner(self.plan.bodies[loop], loop.body.block, self.buffers, self.pool).run()
