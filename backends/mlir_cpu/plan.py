"""Fusion: which ops of a block share one pass over their tiles, and in which order the passes run.

A :class:`Pass` covers one tile shape.  A dot opens a pass, because its results appear block by block in
registers; elementwise ops and reductions join the first pass of their shape in which all their operands are
already known, and so the scale, the mask and the running maximum run on the registers that a dot leaves.
A reduction is complete when its pass is.  Nothing here knows attention.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from xdsl.ir import Block, Operation, SSAValue

from ...ir.tile import (
    BandAddOp,
    BandDotOp,
    DotOp,
    ForOp,
    FullOp,
    LoadOp,
    MapOp,
    MaskOp,
    ReduceOp,
    StoreOp,
    TileType,
    YieldOp,
    tile_type,
)
from .errors import UnsupportedKernelError
from .pairs import is_paired
from .tiles import Tiles


@dataclass
class Pass:
    """Ops run together over the tile ``shape``: a dot, or nothing, then elementwise ops and reductions."""

    shape: dict[str, int]
    dot: DotOp | None = None
    ops: list[Operation] = field(default_factory=list)
    stored: list[SSAValue] = field(default_factory=list)  # results that other steps read

    @property
    def defined(self) -> list[SSAValue]:
        return [op.results[0] for op in ([self.dot] if self.dot else []) + self.ops]


Step = (
    Pass | ForOp | StoreOp | LoadOp | BandDotOp | BandAddOp | DotOp
)  # a dot by itself contracts the row axis, or runs on tiles


@dataclass
class BlockPlan:
    """The steps of one block, and its values that are computed again wherever they are used."""

    steps: list[Step]
    inlined: set[SSAValue]
    key_loads: list[LoadOp]  # tiles whose rows are read straight from memory, features in the lanes
    pair_loads: list[LoadOp]  # those of dots that multiply pairs
    tile_loads: list[tuple[LoadOp, str]]  # those of dots on matrix registers, with the kind of dot
    row_pair_loads: list[LoadOp]  # those of dots that multiply pairs of computed operands and of neighbouring rows
    yields: Sequence[SSAValue]
    bodies: dict[ForOp, BlockPlan]


def axes(value: SSAValue) -> dict[str, int]:
    """Axis name -> size of a tile; empty for memories."""
    return tile_type(value).shape if isinstance(value.type, TileType) else {}


def contracts_rows(op: object, rows: str) -> bool:
    """Does the op sum products over the axis in the lanes?"""
    return isinstance(op, DotOp) and op.contracted == rows


def row_dot(op: DotOp) -> tuple[SSAValue, SSAValue, StoreOp]:
    """Of a dot that contracts the row axis: the operand with rows in the lanes, the one in memory, and its use."""
    scratch, natural = (op.lhs, op.rhs) if isinstance(op.rhs.owner, LoadOp) else (op.rhs, op.lhs)
    uses = [use.operation for use in op.result.uses]
    if not isinstance(natural.owner, LoadOp):
        raise UnsupportedKernelError(f"{op}: one operand of a contraction over rows must come from memory")
    if len(uses) != 1 or not isinstance(uses[0], StoreOp) or op.acc is not None:
        raise UnsupportedKernelError(f"{op}: a contraction over rows must be stored, and nothing else")
    return scratch, natural, uses[0]


def plan_block(
    block: Block, rows: str, pairs: bool, tiles: Tiles, upright: Collection[SSAValue] = frozenset()
) -> BlockPlan:
    """Plan a block and the loops in it; ``rows`` lies in the lanes, but of tiles that are ``upright``, and ``pairs`` of
    bf16 may be multiplied."""
    return _Planner(rows, pairs, tiles, upright, frozenset()).run(block)


class _Planner:
    def __init__(self, rows: str, pairs: bool, tiles: Tiles, upright: Collection[SSAValue], loops: frozenset[str]):
        self.rows, self.pairs, self.tiles, self.upright, self.loops = rows, pairs, tiles, upright, loops
        self.steps: list[Step] = []
        self.ready: dict[SSAValue, int] = {}  # first step that may read the value
        self.home: dict[SSAValue, Pass] = {}  # pass in whose registers the value is
        self.plan = BlockPlan(self.steps, set(), [], [], [], [], (), {})

    def run(self, block: Block) -> BlockPlan:
        # scores on tiles come first: they read memory only, and then all elementwise work on them shares one pass
        first = [op for op in block.ops if self.tiles.dots and (isinstance(op, LoadOp) or self._is_score(op))]
        for op in [*first, *(op for op in block.ops if op not in first)]:
            self._place(op)
        for step in self.steps:
            if isinstance(step, Pass):
                step.stored = [v for v in step.defined if self._escapes(v, step)]
        return self.plan

    def _place(self, op: Operation) -> None:
        match op:
            case YieldOp():
                self.plan.yields = tuple(op.values)
            case FullOp() if not any(isinstance(use.operation, StoreOp) for use in op.result.uses):
                self.plan.inlined.add(op.result)
            case LoadOp() if self.rows not in axes(op.result):
                if len(axes(op.result)) == 2:
                    dots = [use.operation for use in op.result.uses]
                    paired = [self.pairs and isinstance(d, DotOp) and is_paired(d, self.rows) for d in dots]
                    tiled = [d in self.tiles.dots or d in self.tiles.pairs for d in dots]
                    self.plan.tile_loads += [(op, kind) for kind in self.tiles.loaded(op)]
                    self.plan.row_pair_loads += [op] if any(d in self.tiles.pairs for d in dots) else []
                    self.plan.pair_loads += [op] if any(paired) else []
                    self.plan.key_loads += [] if all(p or t for p, t in zip(paired, tiled, strict=True)) else [op]
                else:
                    self.plan.inlined.add(op.result)  # one scalar a row: read where it is used
            case LoadOp() if len(axes(op.result)) == 1 or self.loops & axes(op.result).keys():
                self._join(op)
            case LoadOp():
                in_memory = [self._reads_memory(use.operation, op.result) for use in op.result.uses]
                self.plan.tile_loads += [(op, kind) for kind in self.tiles.loaded(op)]
                readers = [u.operation for u, reads in zip(op.result.uses, in_memory, strict=True) if reads]
                if any(dot in self.tiles.pairs for dot in readers):
                    self.plan.row_pair_loads.append(op)
                if any(dot not in self.tiles.dots and dot not in self.tiles.pairs for dot in readers):
                    self.plan.key_loads.append(op)
                if not all(in_memory):
                    self._append(op)
            case DotOp() if contracts_rows(op, self.rows) or op in self.tiles.dots or op.result in self.upright:
                self._append(op)
            case StoreOp() if contracts_rows(op.value.owner, self.rows):
                pass  # the dot adds to memory itself
            case DotOp():
                self._open(op)
            case MapOp() if self.rows not in axes(op.result):
                if len(axes(op.result)) > 1:
                    raise UnsupportedKernelError(f"tile.map over {axes(op.result)} without the row axis {self.rows!r}")
                self.plan.inlined.add(op.result)
                self.ready[op.result] = self._earliest(op, {})
            case MapOp() if self._only_accumulates(op.result):
                self.plan.inlined.add(op.result)
                self.ready[op.result] = self._earliest(op, {})
            case FullOp() | MapOp() | MaskOp() | ReduceOp():
                self._join(op)
            case ForOp():
                body = _Planner(self.rows, self.pairs, self.tiles, self.upright, self.loops | {op.axis.data})
                self.plan.bodies[op] = body.run(op.body.block)
                self._append(op)
            case StoreOp() | BandDotOp() | BandAddOp():
                self._append(op)
            case _:
                raise UnsupportedKernelError(f"no CPU lowering for {op.name}")

    def _only_accumulates(self, value: SSAValue) -> bool:
        """Is the value used once, as the accumulator of a dot in vector registers?"""
        uses = [use.operation for use in value.uses]
        return len(uses) == 1 and isinstance(uses[0], DotOp) and uses[0].acc is value and uses[0] not in self.tiles.dots

    def _is_score(self, op: Operation) -> bool:
        return isinstance(op, DotOp) and self.tiles.dots.get(op) == "score"

    def _reads_memory(self, op: Operation, value: SSAValue) -> bool:
        """Does ``op`` read the rows of the loaded ``value`` from memory, and not as lanes?"""
        if isinstance(op, BandAddOp):
            return op.lhs is value
        return isinstance(op, DotOp) and contracts_rows(op, self.rows) and row_dot(op)[1] is value

    def _append(self, op: ForOp | StoreOp | LoadOp | BandDotOp | BandAddOp | DotOp) -> None:
        self.steps.append(op)
        for result in op.results:
            self.ready[result] = len(self.steps)

    def _open(self, op: DotOp) -> None:
        step = Pass(axes(op.result), op)
        self.steps.append(step)
        self.home[op.result] = step
        self.ready[op.result] = len(self.steps)

    def _earliest(self, op: Operation, shape: dict[str, int]) -> int:
        """First step that knows all operands of ``op``, when that step's passes have this shape."""
        first = 0
        for value in op.operands:
            step = self.home.get(value)
            if step is not None and step.shape == shape:
                first = max(first, self.steps.index(step))
            else:
                first = max(first, self.ready.get(value, 0))
        return first

    def _join(self, op: Operation) -> None:
        shape = axes(op.input) if isinstance(op, ReduceOp) else axes(op.results[0])
        if self.rows not in shape:
            raise UnsupportedKernelError(f"{op.name} over {shape} without the row axis {self.rows!r}")
        first = self._earliest(op, shape)
        for n in range(first, len(self.steps)):
            step = self.steps[n]
            if isinstance(step, Pass) and step.shape == shape:
                break
        else:
            n, step = len(self.steps), Pass(shape)
            self.steps.append(step)
        step.ops.append(op)
        result = op.results[0]
        self.ready[result] = n + 1
        if not isinstance(op, ReduceOp):
            self.home[result] = step

    def _escapes(self, value: SSAValue, step: Pass) -> bool:
        """Is the value read outside of the pass that makes it?"""
        for use in value.uses:
            user = use.operation
            if user not in step.ops:
                return True
            if isinstance(user, MapOp) and user.result in self.plan.inlined:
                return True
        return isinstance(value.owner, ReduceOp)
