"""Which products run on matrix registers (AMX tiles), and in what form their operands lie in scratch.

Without these, the products of computed operands may run on instructions for pairs in vector registers.

A tile multiplies 16 rows of 32 bf16 with 16 rows of 16 pairs of bf16: neighbours along the axis that is summed share
32 bits.  With rows of the kernel in the lanes there are three kinds of products:

- ``score``: both operands come from memory and features are summed.  The one with rows in the lanes is transposed into
  pairs of features; the other is read as it lies.
- ``sum``: a computed operand is summed over the axis of a loop.  It is written as pairs of tile rows; the operand in
  memory is transposed.
- ``row``: the axis in the lanes is summed.  The computed operand is written as plain rows of bf16; the one in memory
  becomes pairs of rows.

A computed operand must be bf16 already: rounding it is for the pass ``online-softmax`` to decide.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.dialects.builtin import BFloat16Type
from xdsl.ir import BlockArgument, SSAValue

from ...ir.tile import DotOp, KernelOp, LoadOp, MapOp, memory_type, tile_type
from .pairs import operands

SIDE = 32  # rows and columns of a block of four tiles, and the terms that one instruction sums


def padded(size: int) -> int:
    """``size`` in whole blocks."""
    return -(-size // SIDE) * SIDE


@dataclass(frozen=True)
class Tiles:
    """The products on tiles, the form of each computed operand (``pairs`` or ``plain``), and the loads to lanes.

    ``pairs`` are the products of computed operands where vector registers multiply pairs and there are no tiles.
    """

    dots: dict[DotOp, str] = field(default_factory=dict)
    computed: dict[SSAValue, str] = field(default_factory=dict)
    lanes: frozenset[LoadOp] = frozenset()
    pairs: frozenset[DotOp] = frozenset()

    @staticmethod
    def of(kernel: KernelOp) -> Tiles:
        """The products of a kernel that can run on tiles.  Those that share an operand need it in the same form."""
        rows = kernel.rows.data.name
        kinds = {op: _kind(op, rows) for op in kernel.walk() if isinstance(op, DotOp)}
        dots: dict[DotOp, str] = {}
        computed: dict[SSAValue, str] = {}
        lanes: set[LoadOp] = set()
        for dot, kind in kinds.items():
            operand = lane_operand(dot, rows)
            owner = operand.owner
            others = [use.operation for use in operand.uses]
            if isinstance(owner, LoadOp):  # sums over rows read it from memory
                others = [op for op in others if not (isinstance(op, DotOp) and op.contracted == rows)]
            if not kind or any(not isinstance(op, DotOp) or kinds[op] != kind for op in others):
                continue
            if any(isinstance(op, DotOp) and lane_operand(op, rows) is not operand for op in others):
                continue
            dots[dot] = kind
            if isinstance(owner, LoadOp):
                lanes.add(owner)
            else:
                computed[operand] = "plain" if kind == "row" else "pairs"
        return Tiles(dots, computed, frozenset(lanes))

    def in_vectors(self) -> Tiles:
        """The same for vector registers; products whose operands both come from memory are those of :mod:`.pairs`."""
        return Tiles(computed=self.computed, pairs=frozenset(dot for dot, kind in self.dots.items() if kind != "score"))

    def loaded(self, load: LoadOp) -> list[str]:
        """The kinds of products on tiles that read a tile straight from memory."""
        kinds = {
            self.dots[use.operation]
            for use in load.result.uses
            if isinstance(use.operation, DotOp)
            and use.operation in self.dots
            and not (self.dots[use.operation] == "score" and load in self.lanes)
        }
        return sorted(kinds)


def lane_operand(dot: DotOp, rows: str) -> SSAValue:
    """The operand with rows in the lanes; of a sum over rows the computed one."""
    if dot.contracted == rows:
        return dot.lhs if isinstance(dot.rhs.owner, LoadOp) else dot.rhs
    return operands(dot, rows)[0]


def memory_operand(dot: DotOp, rows: str) -> SSAValue:
    """The other operand."""
    return dot.rhs if lane_operand(dot, rows) is dot.lhs else dot.lhs


def _kind(dot: DotOp, rows: str) -> str:
    """The kind of a product, judged by itself; empty where tiles cannot compute it."""
    lanes, other = lane_operand(dot, rows), memory_operand(dot, rows)
    if not isinstance(other.owner, LoadOp) or not _is_narrow(other.owner):
        return ""
    axes, lane_axes = list(tile_type(other).shape), list(tile_type(lanes).shape)
    if len(axes) != 2 or len(lane_axes) != 2 or rows not in lane_axes:
        return ""
    if isinstance(lanes.owner, LoadOp):
        features = axes[1] == dot.contracted and dot.contracted != rows and rows not in axes
        return "score" if features and dot.acc is None and _is_narrow(lanes.owner) else ""
    if not isinstance(lanes.owner, MapOp) or not isinstance(tile_type(lanes).element, BFloat16Type):
        return ""
    if axes[0] != dot.contracted:
        return ""
    if dot.contracted == rows:
        return "row" if dot.acc is None else ""
    stored = dot.acc is None or isinstance(dot.acc, BlockArgument) or isinstance(dot.acc.owner, MapOp)
    return "sum" if stored and rows not in axes else ""


def _is_narrow(load: LoadOp) -> bool:
    return isinstance(memory_type(load.memory).element, BFloat16Type)
