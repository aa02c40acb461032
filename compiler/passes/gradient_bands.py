"""Gradients of the operands of inner products that scores hold themselves, ``inner(p[i, d], r[i - j, d])``.

Both are sums over pairs.  That of ``p`` is a row's own, ``sum over j of ds[i, j] * r[i - j]``, and stays in a tile, as
the gradient of the queries does.  That of ``r`` gathers diagonals, ``ds[i, j] * p[i]`` for all pairs of a distance:
tiles of rows run in order within a task and add to it, each point of the batch that shares ``r`` to a slice of its own.
The slices are summed in the end, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.derivative import derivative
from ...ir.expr import Const, Expr, Load, Op, Var, inners
from ..analysis.bounds import max_over
from ..analysis.injective import reach
from .gradient_problem import Problem
from .gradient_targets import Target, target
from .inner_products import operands


def wanted(problem: Problem, n: int, tensors: Collection[str]) -> list[Op]:
    """The inner products of source ``n`` that it varies with, with the gradient of an operand among ``tensors``."""
    body = problem.sources[n].score.body
    live = [x for x in inners(body) if derivative(body, x) != Const(0.0)]
    return [x for x in live if any(read.tensor in tensors for read in operands(x))]


def lefts(problem: Problem, products: Collection[Op], tensors: Collection[str]) -> dict[Load, Target]:
    """Where the gradients of the operands go that the row decides; sources may share one."""
    reads = dict.fromkeys(operands(x)[0] for x in products)
    axes = [problem.row, problem.features[0]]
    return {
        read: target(problem, axes, read.index, problem.type(f"capture:{read.tensor}"))
        for read in reads
        if read.tensor in tensors
    }


@dataclass(frozen=True)
class BandTarget:
    """Where the gradient of an operand goes that row and key decide: a slice for each point of ``slices``."""

    read: Load
    slices: tuple[Dim, ...]
    type: attn.TensorType

    @property
    def index(self) -> tuple[Expr, ...]:
        return (*(Var(d.name) for d in self.slices), *self.read.index)

    @staticmethod
    def of(problem: Problem, n: int, read: Load) -> BandTarget:
        shape = problem.type(f"capture:{read.tensor}").shape
        dims = (*problem.batch, problem.row, problem.key(n), problem.features[0])
        known = reach(read.index, dims, shape, problem.facts).determined
        slices = tuple(
            Dim(d.name, max_over(d.extent, problem.batch[:k]))
            for k, d in enumerate(problem.batch)
            if d.name not in known
        )
        return BandTarget(read, slices, attn.TensorType.of([*(d.extent for d in slices), *shape], problem.compute))

    def finish(self, written: SSAValue, problem: Problem) -> tuple[list[Operation], SSAValue]:
        """What makes the gradient of what a kernel wrote."""
        count = len(self.slices)
        if not count:
            return [], written
        rest = attn.TensorType.of(self.type.shape[count:], problem.compute)
        summed = attn.CallOp(f"x0.sum({tuple(range(count))!r})", [written], [rest])
        return [summed], summed.results[0]


def rights(problem: Problem, n: int, products: Collection[Op], tensors: Collection[str]) -> dict[Op, BandTarget]:
    """Where the gradients of the other operands go."""
    return {x: BandTarget.of(problem, n, r) for x in products if (r := operands(x)[1]).tensor in tensors}
