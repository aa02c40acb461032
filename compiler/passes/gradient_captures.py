"""Gradients of captured tensors that a score reads.

What the index of a read uses decides how its gradient is summed: without the key, along the row in the query kernel;
without the row, along the column in the key kernel; both come together in ``attn.scatter``.  An index of both needs a
kernel of its own, which adds every pair to its element.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.derivative import derivative
from ...ir.expr import Const, Expr, Load, Var, free_vars, loads
from ..analysis.bounds import max_over
from ..analysis.injective import reach
from .gradient_frame import Frame
from .gradient_pairs import Keys, Pairs, Queries
from .gradient_problem import Problem
from .gradient_targets import Target, scattered, target

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


MOST_PAIRS = 1 << 14  # of a group that are few enough to be kept: 128 tokens, say


@dataclass(frozen=True)
class _Place:
    """Where the pairs of one read are added: in the tensor, or in a slice of it for each point of ``slices``.

    With a ``box`` it is a temporary over these dimensions instead of the tensor.
    """

    read: Load
    slices: tuple[Dim, ...]
    in_order: frozenset[str]  # dimensions of the batch
    tiles_in_order: bool
    box: tuple[Dim, ...] = ()
    rows: str = ROW  # of a kernel of its own: or ``KEY``

    @property
    def index(self) -> tuple[Expr, ...]:
        return (*(Var(d.name) for d in self.slices), *([Var(d.name) for d in self.box] or self.read.index))

    def type(self, problem: Problem) -> attn.TensorType:
        sizes = [d.extent for d in self.box] or problem.type(role_of(self.read)).shape
        return attn.TensorType.of([*(d.extent for d in self.slices), *sizes], problem.compute)


def pair_kernels(
    problem: Problem,
    name: str,
    n: int,
    tensors: Sequence[str],
    given: Mapping[str, SSAValue],
    done: Collection[Load] = (),
    by_key: bool = False,
) -> list[tuple[Frame, list[PairTarget]]]:
    """Kernels that add up, pair by pair, the gradients of reads whose index uses row and key, less those ``done``.

    Their rows are queries; with ``by_key`` they are keys where neighbouring keys have neighbouring elements.
    """
    places = [_place(problem, n, read, by_key) for read in reads(problem, n, tensors, [BOTH]) if read not in done]
    found = []
    for shared in dict.fromkeys((p.rows, p.in_order, p.tiles_in_order) for p in places):
        together = [p for p in places if (p.rows, p.in_order, p.tiles_in_order) == shared]
        found.append(_pair_kernel(problem, f"{name}_{together[0].read.tensor}", n, together, given))
    return found


def _place(problem: Problem, n: int, read: Load, by_key: bool) -> _Place:
    """A small table, which rows and keys share, takes a slice for each point of the batch, so that these run at once;
    what grows with rows or keys exists once, and dimensions that it lacks run in order.

    Where groups are small, as in windows of an image, and many read the table alike, their pairs are added up first, a
    vector at a time, and each sum goes to its element.
    """
    row, key = problem.row, problem.key(n)
    grouped = _grouped(problem, n, read, (key, row))
    if grouped is not None:
        return grouped
    known = _determined(problem, n, read)
    loose = [d for d in problem.batch if d.name not in known]
    if row.name in known or key.name in known:
        last = free_vars(read.index[-1])
        rows = KEY if by_key and key.name in last and row.name not in last else ROW
        own = key.name if rows == KEY else row.name
        return _Place(read, (), frozenset(d.name for d in loose), own not in known, rows=rows)
    return _Place(read, tuple(_whole(d, problem) for d in loose), frozenset(), True)


def _determined(problem: Problem, n: int, read: Load) -> frozenset[str]:
    """The dimensions that follow from the element that is read."""
    dims = (*problem.batch, problem.row, problem.key(n))
    return reach(read.index, dims, problem.type(role_of(read)).shape, problem.facts).determined


def _grouped(problem: Problem, n: int, read: Load, pair: tuple[Dim, Dim]) -> _Place | None:
    """The place for sums over small groups; the last of ``pair`` is the dimension in the lanes."""
    used = free_vars(read)
    alike = [d for d in problem.batch if d.name not in used]
    sizes = [d.extent.value for d in pair if isinstance(d.extent, Const)]
    if not alike or len(sizes) < 2 or sizes[0] * sizes[1] > MOST_PAIRS:
        return None
    box = (*(_whole(d, problem) for d in problem.batch if d.name in used), *pair)
    return _Place(read, (_whole(alike[0], problem),), frozenset(d.name for d in alike[1:]), False, box)


def group_places(problem: Problem, n: int, tensors: Iterable[str]) -> list[_Place]:
    """Where a kernel with keys in the lanes may add up pairs of small groups; empty unless that is so for all reads."""
    pair = problem.row, problem.key(n)
    places = [_grouped(problem, n, read, pair) for read in reads(problem, n, tensors, [BOTH])]
    return [] if None in places else [p for p in places if p is not None]


def owned_places(problem: Problem, n: int, tensors: Iterable[str], own: Dim, in_order: bool = False) -> list[_Place]:
    """Where a kernel with ``own`` for rows adds up pairs: in elements that no two of its tasks share, such as those of
    a product for each row with a table.

    Where tasks may run ``in_order``, these may also be elements that some dimensions of the batch share, others not.
    """
    found = []
    batch = {d.name for d in problem.batch}
    for read in reads(problem, n, tensors, [BOTH]):
        known = _determined(problem, n, read)
        loose = batch - known
        if own.name in known and (not loose or (in_order and batch & known)):
            found.append(_Place(read, (), frozenset(loose), False))
    return found


def _whole(dim: Dim, problem: Problem) -> Dim:
    return Dim(dim.name, max_over(dim.extent, problem.batch))


@dataclass(frozen=True)
class PairTarget:
    """What a pair kernel wrote, and how the gradient comes of it."""

    read: Load
    place: _Place
    source: int

    def finish(self, written: SSAValue, problem: Problem) -> tuple[list[Operation], SSAValue]:
        ops: list[Operation] = []
        slices, box = len(self.place.slices), self.place.box
        if slices:
            rest = attn.TensorType.of(self.place.type(problem).shape[slices:], problem.compute)
            ops.append(attn.CallOp(f"x0.sum({tuple(range(slices))!r})", [written], [rest]))
            written = ops[-1].results[0]
        if box:
            type = attn.TensorType.of(problem.type(role_of(self.read)).shape, problem.compute)
            ops.append(scattered(written, box, self.read.index, type, problem))
            written = ops[-1].results[0]
        return ops, written


def _pair_kernel(
    problem: Problem, name: str, n: int, places: list[_Place], given: Mapping[str, SSAValue]
) -> tuple[Frame, list[PairTarget]]:
    source, first = problem.sources[n], places[0]
    row, key = problem.row, problem.key(n)
    by_key = first.rows == KEY
    own, other = (key, row) if by_key else (row, key)
    types = [p.type(problem) for p in places]
    names = [f"grad{k}:{p.read.tensor}" for k, p in enumerate(places)]
    frame = Frame(
        problem,
        name,
        own,
        dict(zip(names, types, strict=True)),
        given=given,
        sequential=sorted(first.in_order),
        tiles_in_order=first.tiles_in_order,
    )
    queries, keys = (None, Keys.load(frame, n)) if by_key else (Queries.load(frame), None)
    pairs = Pairs(frame, n, [p.read for p in places])
    delta = pairs.row_delta(queries) if queries else None

    def step(carried: Sequence[SSAValue]) -> Sequence[SSAValue]:
        rows, columns = queries or Queries.load(frame), keys or Keys.load(frame, n)
        of_rows = delta if queries else pairs.row_delta(rows)
        _, gradients = pairs.tiles(rows, columns, of_rows, own.name, other.name)
        for place, memory, gradient in zip(places, names, gradients, strict=True):
            assert gradient is not None
            frame.builder.store(gradient, frame.memory[memory], place.index, add=True)
        return carried

    frame.builder.loop(other, source.mask, [], step)
    return frame, [PairTarget(p.read, p, n) for p in places]
