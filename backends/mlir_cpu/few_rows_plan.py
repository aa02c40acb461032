"""Which kernels have few rows, and what they keep in scratch."""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.ir import Operation, SSAValue

from ...ir.tile import DotOp, ForOp, FullOp, KernelOp, LoadOp, MapOp, MaskOp, ReduceOp, StoreOp, YieldOp
from .plan import axes


@dataclass
class FewRowsPlan:
    """Which values are kept in scratch, and how many elements each takes."""

    rows: str
    lanes: int
    kept: dict[SSAValue, int] = field(default_factory=dict)  # value -> number of its buffer
    sizes: list[int] = field(default_factory=list)
    views: list[LoadOp] = field(default_factory=list)  # keys and values

    @staticmethod
    def of(kernel: KernelOp, lanes: int) -> FewRowsPlan | None:
        """The plan, or None where the kernel has another form than attention forwards."""
        rows = kernel.rows.data
        if rows.size >= lanes or rows.size & (rows.size - 1):
            return None
        plan = FewRowsPlan(rows.name, lanes)
        return plan if all(plan._take(op) for op in kernel.walk() if op is not kernel) else None

    def _take(self, op: Operation) -> bool:
        match op:
            case LoadOp() if self.rows not in axes(op.result) and len(axes(op.result)) == 2:
                self.views.append(op)
                return all(isinstance(use.operation, DotOp) for use in op.result.uses)
            case LoadOp():
                if len(axes(op.result)) == 2:
                    self._keep(op.result)
                return list(axes(op.result))[-1] not in _loop_axes(op) or len(axes(op.result)) == 1
            case DotOp():
                lhs, rhs = axes(op.lhs), axes(op.rhs)
                self._keep(op.result)
                return self.rows in lhs and self.rows not in rhs and self.rows != op.contracted and (
                    op.acc is None or next(iter(rhs)) == op.contracted
                )  # fmt: skip
            case MapOp() | MaskOp():
                if not self._inlined(op.results[0]):
                    self._keep(op.results[0])
                return self.rows in axes(op.results[0])
            case ReduceOp():
                self._keep(op.result)
                return op.axis != self.rows and len(axes(op.input)) == 2
            case ForOp():
                for value in op.carried:
                    self._keep(value)
                self.kept |= {r: self.kept[a] for r, a in zip(op.results_, op.carried, strict=True)}
                return True
            case StoreOp():
                return op.add is None and self.rows in axes(op.value) and not isinstance(op.value.owner, FullOp)
        return isinstance(op, FullOp | YieldOp)

    def _inlined(self, value: SSAValue) -> bool:
        """Is the value computed where its one user reads it?"""
        uses = list(value.uses)
        if len(uses) != 1:
            return False
        user = uses[0].operation
        if isinstance(user, DotOp):
            return user.acc is value
        return isinstance(user, MapOp | MaskOp) and axes(user.results[0]) == axes(value)

    def _keep(self, value: SSAValue) -> None:
        shape = axes(value)
        width = self.padded(list(shape.values())[-1])
        rows = shape[self.rows] if len(shape) > 1 else 1
        self.kept[value] = len(self.sizes)
        self.sizes.append(rows * width)

    def padded(self, width: int) -> int:
        """A multiple of the lanes."""
        return -(-width // self.lanes) * self.lanes


def _loop_axes(op: Operation) -> set[str]:
    found = set()
    parent = op.parent_op()
    while parent is not None:
        if isinstance(parent, ForOp):
            found.add(parent.axis.data)
        parent = parent.parent_op()
    return found
