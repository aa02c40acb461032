"""Sums over the features of rows in memory, such as ``delta[i] = sum over e of out[i, e] * do[i, e]``.

Loaded as tiles, both operands would be transposed, a vector of features after the other, to be added up row by row in
the lanes.  Here each row is added up as it lies in memory, and only the vectors of partial sums are transposed.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import SSAValue

from ...ir.expr import free_vars
from ...ir.tile import LoadOp, MapOp, ReduceOp
from .builder import PTR, Val
from .frame import Frame
from .passes import Chunk
from .plan import BlockPlan, Pass, Step, axes
from .positions import tabulate
from .transfers import Transfers


@dataclass(frozen=True)
class RowSum:
    """The first steps of a block: loads, and the pass that adds them up."""

    loads: list[LoadOp]
    op: ReduceOp
    steps: list[Step]


def row_sum(plan: BlockPlan, rows: str) -> RowSum | None:
    """What the block begins with, if that is such a sum."""
    loads = [step for step in plan.steps if isinstance(step, LoadOp)]
    steps = plan.steps[: len(loads) + 1]
    match steps[-1:]:
        case [Pass(_, None, [*maps, ReduceOp() as last])] if steps[:-1] == loads and last.kind.data == "sum":
            values = {*(load.result for load in loads), *(op.results[0] for op in maps)}
            reads = {last.input, *(v for op in maps for v in op.operands)}
            uses = {use.operation for v in values for use in v.uses}
            if reads <= values and uses <= {*maps, last} and all(_is_of_row(v, rows) for v in values):
                if all(map(_is_plain, maps)):
                    return RowSum(loads, last, steps)
    return None


def _is_of_row(value: SSAValue, rows: str) -> bool:
    return next(iter(axes(value)), None) == rows and len(axes(value)) == 2


def _is_plain(op: object) -> bool:
    """Is it the same function at every place?"""
    return isinstance(op, MapOp) and free_vars(op.function.data.body) <= set(op.function.data.params)


class RowSumEmitter:
    """Emits one such sum."""

    def __init__(self, frame: Frame, found: RowSum):
        self.f, self.b, self.found = frame, frame.b, found
        self.transfers = Transfers(frame)
        self.feature, self.width = list(axes(found.op.input).items())[1]

    def is_possible(self) -> Val:
        """Do features lie side by side?"""
        where = self.b.boolean(True)
        for load in self.found.loads:
            stride = self.transfers.stride(self.f.memories[load.memory], load.index.data, self.feature)
            where = self.b.binary("andi", where, self.transfers.is_one(stride))
        return where

    def emit(self) -> None:
        f, b = self.f, self.b
        whole = self.width // f.lanes * f.lanes
        for load in self.found.loads:
            tabulate(f, load.index.data, f.rows, axes(load.result)[f.rows], [self.feature])
        with b.loop(0, f.row_width, f.lanes, hint="lane") as lane:
            loads = enumerate(self.found.loads)
            rows = {load: self.transfers.row_addresses(load, lane.iv, f"rows{n}") for n, load in loads}
            with b.loop(0, whole, f.lanes, [b.real(0.0, f.vector)] * f.lanes, hint=self.feature) as loop:
                loop.yields = self._terms(rows, loop.iv, f.lanes, lane.iv, loop.carried)
            sums = loop.results
            if self.width > whole:
                sums = self._terms(rows, b.integer(whole), self.width - whole, lane.iv, sums)
            sums = self.transfers.transpose(sums)
            while len(sums) > 1:
                sums = [b.binary("addf", x, y) for x, y in zip(sums[::2], sums[1::2], strict=True)]
            b.store(sums[0], f.row_pointer(self.found.op.result, 0, lane.iv), f.align)

    def _terms(self, rows: dict[LoadOp, Val], first: Val, count: int, lane: Val, sums: list[Val]) -> list[Val]:
        """The sums of a vector of rows with ``count`` more features."""
        f, b, found = self.f, self.b, []
        for n, total in enumerate(sums):
            known: dict[SSAValue, Val] = {}
            for load, places in rows.items():
                memory = f.memories[load.memory]
                row = b.load(b.at(places, n, PTR), PTR)
                known[load.result] = self.transfers.widen(memory, b.at(row, first, memory.stored), count)
            term = Chunk(f, None, 0, lane, known).value(self.found.op.input)
            if count < f.lanes:
                term = b.select(b.mask_first(count, f.lanes), term, b.real(0.0, f.vector))
            found.append(b.binary("addf", total, term))
        return found
