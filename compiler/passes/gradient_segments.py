"""Split what runs in order within a task of a gradient kernel among tasks, where there are few heads.

These are key tiles that add to one gradient of the queries, or small groups whose pairs add to one sum.

before::

    grid "b < B, h < H, t < T" sequential 1 rows "j, t * 64, 64, N_k" {
      ... tile.store %dq_1, %dq at <"b, h, i, d"> add }

after, with ``S`` segments of consecutive tiles::

    grid "b < B, h < H, s < S, t < T" sequential 1 rows "j, t * 64, 64, where(t // ceil(T / S) == s, N_k, 0)" {
      ... tile.store %dq_1, %dq at <"s, b, h, i, d"> add }

Every segment adds up a gradient of the queries of its own, and those are summed in the end, always in the same order.
``S`` is 1 for many heads or few tiles, and then the sum is no work.  It follows from sizes alone, so that the bits of a
gradient do not depend on the number of threads.

Legality: a tile, or a group, belongs to one segment, and tasks that differ in ``s`` write different slices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.expr import Const, Expr, Var, ceildiv, lt, op
from ..analysis.bounds import max_over
from .gradient_problem import Problem
from .gradient_targets import SLICES, Target
from .kernel_builder import batch_grid, fresh

LEAST = 2  # tiles of a segment, at least
MANY = 4 * SLICES  # tasks that are enough where only heads are left to run at once


@dataclass(frozen=True)
class Segments:
    """The grid dimension that counts segments, what is cut into them, and how much of it is in each.

    ``counted`` names a dimension of the batch; where it is empty these are the tiles.
    """

    dim: Dim
    size: Expr
    counted: str = ""

    @staticmethod
    def of_tiles(problem: Problem, rows: Dim, in_order: Sequence[str], enough: int = SLICES) -> Segments | None:
        """How to split tiles of ``rows``; None where there are always ``enough`` tasks, or too few tiles."""
        tiles = ceildiv(max_over(rows.extent, problem.batch), problem.sizes(rows.name)[rows.name])
        return _segments(problem, tiles, in_order, "", enough)

    @staticmethod
    def of_batch(problem: Problem, name: str, in_order: Sequence[str]) -> Segments | None:
        """How to split a dimension that runs in order; None where there are always enough tasks."""
        (dim,) = (d for d in problem.batch if d.name == name)
        return _segments(problem, max_over(dim.extent, problem.batch), in_order, name)

    def owns(self, at: Expr) -> Expr:
        """Is this the segment of a tile, or of a point?"""
        return op("==", at // self.size, Var(self.dim.name))

    def slices(self, to: Target) -> Target:
        """The target with a slice for each segment."""
        type = attn.TensorType.of([self.dim.extent, *to.type.shape], to.type.element)
        return replace(to, type=type, index=(Var(self.dim.name), *to.index), sum=to.type)


def _segments(
    problem: Problem, total: Expr, in_order: Sequence[str], counted: str, enough: int = SLICES
) -> Segments | None:
    """Segments of ``total``."""
    extents = [d.extent for d in batch_grid(problem.batch) if d.name not in in_order]
    if math.prod(e.value for e in extents if isinstance(e, Const)) >= enough:
        return None
    few = op("and", lt(math.prod(extents, start=Const(1)), enough), op(">=", total, LEAST * SLICES))
    count = op("where", few, SLICES, 1)
    if count == Const(1):
        return None
    return Segments(Dim(fresh("s", set(problem.taken)), count), ceildiv(total, count), counted)
