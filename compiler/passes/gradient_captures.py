"""Gradients of captured tensors that a score reads.

What the index of a read uses decides how its gradient is summed: without the key, along the row in the query kernel;
without the row, along the column in the key kernel; both come together in ``attn.scatter``.  An index of both needs a
kernel of its own, which adds every pair to its element.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.derivative import derivative
from ...ir.expr import Const, Load, Var, free_vars, loads
from ..analysis.bounds import max_over
from ..analysis.injective import reach
from .gradient_frame import Frame
from .gradient_pairs import Keys, Pairs, Queries
from .gradient_problem import Problem
from .gradient_targets import Target, target

ROW, KEY, BOTH, NEITHER = "row", "key", "both", "neither"


def reads(problem: Problem, n: int, tensors: Iterable[str], classes: Iterable[str]) -> list[Load]:
    """The reads of ``tensors`` that the score of source ``n`` varies with, in order, of these classes."""
    body = problem.sources[n].score.body
    found = [r for r in loads(body) if r.tensor in tensors and r.kind == "float"]
    return [r for r in found if class_of(problem, n, r) in classes and derivative(body, r) != Const(0.0)]


def class_of(problem: Problem, n: int, read: Load) -> str:
    """Which of row and key the index of a read uses."""
    used = free_vars(read)
    row, key = problem.row.name in used, problem.sources[n].key in used
    return BOTH if row and key else ROW if row else KEY if key else NEITHER


def sum_target(problem: Problem, axis: Dim, read: Load) -> Target:
    """Where sums over rows, or over columns, of the gradient of a read go; ``axis`` is what is left."""
    return target(problem, [axis], read.index, problem.type(role_of(read)), share=False)


def role_of(read: Load) -> str:
    return f"capture:{read.tensor}"


@dataclass(frozen=True)
class _Place:
    """Where the pairs of one read are added: in the tensor, or in a slice of it for each point of ``slices``."""

    read: Load
    slices: tuple[Dim, ...]
    in_order: frozenset[str]  # dimensions of the batch
    tiles_in_order: bool


def pair_kernels(
    problem: Problem, name: str, n: int, tensors: Sequence[str], given: Mapping[str, SSAValue]
) -> list[tuple[Frame, list[PairTarget]]]:
    """Kernels that add up, pair by pair, the gradients of reads whose index uses row and key."""
    places = [_place(problem, n, read) for read in reads(problem, n, tensors, [BOTH])]
    found = []
    for shared in dict.fromkeys((p.in_order, p.tiles_in_order) for p in places):
        together = [p for p in places if (p.in_order, p.tiles_in_order) == shared]
        found.append(_pair_kernel(problem, f"{name}_{together[0].read.tensor}", n, together, given))
    return found


def _place(problem: Problem, n: int, read: Load) -> _Place:
    """A small table, which rows and keys share, takes a slice for each point of the batch, so that these run at once;
    what grows with rows or keys exists once, and dimensions that it lacks run in order."""
    row, key = problem.row, problem.key(n)
    shape = problem.type(role_of(read)).shape
    known = reach(read.index, (*problem.batch, row, key), shape, problem.facts).determined
    loose = [d for d in problem.batch if d.name not in known]
    if row.name in known or key.name in known:
        return _Place(read, (), frozenset(d.name for d in loose), row.name not in known)
    slices = tuple(Dim(d.name, max_over(d.extent, problem.batch)) for d in loose)
    return _Place(read, slices, frozenset(), True)


@dataclass(frozen=True)
class PairTarget:
    """What a pair kernel wrote, and how the gradient comes of it."""

    read: Load
    slices: int
    type: attn.TensorType

    def finish(self, written: SSAValue, problem: Problem) -> tuple[list[Operation], SSAValue]:
        if not self.slices:
            return [], written
        op = attn.CallOp(f"x0.sum({tuple(range(self.slices))!r})", [written], [self.type])
        return [op], op.results[0]


def _pair_kernel(
    problem: Problem, name: str, n: int, places: list[_Place], given: Mapping[str, SSAValue]
) -> tuple[Frame, list[PairTarget]]:
    source, i = problem.sources[n], problem.row.name
    finals = [attn.TensorType.of(problem.type(role_of(p.read)).shape, problem.compute) for p in places]
    types = [
        attn.TensorType.of([*(d.extent for d in p.slices), *t.shape], problem.compute)
        for p, t in zip(places, finals, strict=True)
    ]
    names = [f"grad{k}:{p.read.tensor}" for k, p in enumerate(places)]
    frame = Frame(
        problem,
        name,
        problem.row,
        dict(zip(names, types, strict=True)),
        given=given,
        sequential=sorted(places[0].in_order),
        tiles_in_order=places[0].tiles_in_order,
    )
    queries = Queries.load(frame)
    pairs = Pairs(frame, n, [p.read for p in places])
    shared = pairs.row_delta(queries)

    def step(carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
        keys = Keys.load(frame, n)
        _, gradients = pairs.tiles(queries, keys, shared, i, source.key)
        for place, memory, gradient in zip(places, names, gradients, strict=True):
            assert gradient is not None
            index = [*(Var(d.name) for d in place.slices), *place.read.index]
            frame.builder.store(gradient, frame.memory[memory], index, add=True)
        return carried

    frame.builder.loop(problem.key(n), source.mask, [], step)
    return frame, [PairTarget(p.read, len(p.slices), t) for p, t in zip(places, finals, strict=True)]
