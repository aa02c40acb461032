"""Attention of few query rows, as at decoding: one tile holds the rows of all heads that share keys.

before, called with ``N == 1``::

    attn.attend over "b < B, h < H, i < N" query %q "b, h, i, d" source "j < M" key %k "b, h // 4, j, d" ...

after, with a guard ``N == 1``::

    attn.attend over "b < B, hk < H // 4, g < 4" query %q "b, hk * 4 + g, 0, d" source "j < M" key %k "b, hk, j, d" ...
      tiles "4 x 64"

Sizes are symbols, and one kernel serves them all; but a tile of 64 rows wastes most of itself on one row.  So a call
with one query gets a plan of its own: a guard, ``N == 1`` here and ``N >= 2`` elsewhere, keeps other calls away.  A
constant number of rows needs no guard.

A GPU's tile holds 16 rows at least, so there up to 16 queries are few.  With ``N == 3`` the rows are those of all heads
and queries::

    attn.attend over "b < B, hk < H // 4, i < 12" query %q "b, hk * 4 + i // 3, i % 3, d" ...

Legality: the members of a group of heads, and the queries of each, are as good rows as any: an attention gives the same
whatever its domain calls a row, as long as keys do not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.dtypes import itemsize
from ...ir.expr import Const, Expr, Lambda, Op, Var, eq, evaluate, free_vars, op, substitute
from ...ir.gradient import AttendGradientOp
from ..analysis.bounds import UnboundedExprError, max_over
from ..analysis.cost import Device, device
from .common import change_attends, facts_about, tidy
from .gradient_groups import by_groups, grouped_by
from .gradient_problem import Problem
from .inner_products import products_of
from .kernel_builder import names_taken
from .rewriting import replace

MOST_ROWS = 32  # of a constant number of rows that are few
KEYS = 64  # of a CPU's tile: their values stay in the level-1 cache until they are needed
MOST_QUERIES = 16  # that are few on a GPU, whose matrix units compute 16 rows at least


@dataclass(frozen=True)
class FewRows(ModulePass):
    """Options: ``target`` is the device; ``names`` and ``values`` are the sizes of the call at hand."""

    name = "few-rows"
    target: str = "cpu-avx512"
    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()

    def apply(self, ctx: Context, module: ModuleOp) -> None:
        sizes = dict(zip(self.names, self.values, strict=True))
        if not sizes:
            return
        change_attends(module, lambda attend, facts: _change(attend, facts, sizes, device(self.target)))


def count_of(extent: Expr, batch: Sequence[Dim], sizes: Mapping[str, int]) -> tuple[Expr, int] | None:
    """The largest value of an extent, as an expression of sizes and as a number; None where they are not known."""
    try:
        most = max_over(extent, batch)
    except UnboundedExprError:
        return None
    return (most, int(evaluate(most, sizes))) if free_vars(most) <= sizes.keys() else None


def are_few(extent: Expr, count: int, on: Device) -> tuple[bool, list[Expr]]:
    """Do kernels for few rows take so many, and the guard that keeps other numbers away."""
    if count < 1:
        return False, []
    few = count <= _most(on) or (isinstance(extent, Const) and tile_rows(count) < on.lanes)
    return few, _guards(extent, count, on)


def _most(on: Device) -> int:
    return MOST_QUERIES if on.is_gpu else 1


def _guards(extent: Expr, count: int, on: Device) -> list[Expr]:
    """What tells few rows from many; nothing where the number is known."""
    if isinstance(extent, Const):
        return []
    return [at_most(extent, _most(on))] if count <= _most(on) else [at_least(extent, _most(on) + 1)]


def _change(attend: attn.AttendOp, facts: tuple[Expr, ...], sizes: Mapping[str, int], on: Device) -> list[Expr]:
    """Rewrite one attention; the guards that it then relies on."""
    if attend.tiles is not None:
        return []
    *batch, row = attend.domain
    found = count_of(row.extent, batch, sizes)
    if found is None or found[1] < 1:
        return []
    extent, count = found
    if count > _most(on):
        if isinstance(extent, Const) and count <= MOST_ROWS and not on.is_gpu:
            replace(attend, attend.rebuilt(tiles=(tile_rows(min(count, 16)), KEYS)))
        return _guards(extent, count, on)
    whole = whole_groups(attend, facts, sizes, on.is_gpu)
    changes = None if extent != row.extent or products_of(attend) else by_head(attend, (*facts, *whole), count)
    if changes is None:
        if on.is_gpu and isinstance(extent, Const):
            return []  # rows and keys of known numbers: the cost model knows best
        replace(attend, attend.rebuilt(tiles=_tiles(attend, count, on)))
        return _guards(extent, count, on)
    *batch, row = changes["dims"]
    members = count_of(row.extent, batch, sizes)
    replace(attend, attend.rebuilt(**changes, tiles=_tiles(attend, members[1] if members else count, on)))
    return whole if isinstance(extent, Const) else [eq(extent, Const(count)), *whole]


def _tiles(attend: attn.AttendOp, rows: int, on: Device) -> tuple[int, int]:
    """A tile of so many rows: on a GPU, two steps of keys and values fill half of the fast memory."""
    if not on.is_gpu:
        return tile_rows(rows), KEYS
    size = itemsize(attn.tensor_type(attend.query).element)
    least = 1 if rows == 1 and size > 2 else 16  # plain multiply-adds need no 16 rows
    keys = on.fast // 4 // ((attend.width.data + attend.value_width.data) * size)
    extents = [int(s.extent.value) if isinstance(s.extent, Const) else 128 for s in attend.source_list]
    most = min(128, 1 << max(max(extents) - 1, 1).bit_length())
    return max(least, tile_rows(rows)), max(16, min(most, 1 << max(keys, 1).bit_length() - 1))


def at_least(e: Expr, bound: int) -> Expr:
    """``e >= bound`` without divisions where they go away: later passes read guards as facts."""
    match e:
        case Op("//", (x, Const(int(c)))) if c > 0:
            return at_least(x, bound * c)
        case Op("+", (x, Const(int(c)))):
            return at_least(x, bound - c)
    return op(">=", e, Const(bound))


def at_most(e: Expr, bound: int) -> Expr:
    """``e <= bound``, which for 1 row is ``e == 1``; likewise without divisions."""
    match e:
        case Op("//", (x, Const(int(c)))) if c > 0 and bound > 1:
            return at_most(x, bound * c + c - 1)
        case Op("+", (x, Const(int(c)))) if bound > 1:
            return at_most(x, bound - c)
    return op("<=", e, Const(bound)) if bound > 1 else eq(e, Const(bound))


def tile_rows(count: int) -> int:
    """The power of two that holds this many rows, at most 64."""
    return min(64, 1 << max(count - 1, 0).bit_length())


def _problem(attend: attn.AttendOp, facts: tuple[Expr, ...], count: int) -> tuple[Problem, dict[str, Expr]]:
    """The attention with its number of rows known, the row 0 if it is one; and what stands for what then."""
    *batch, row = attend.domain
    now: dict[str, Expr] = {row.name: Const(0)} if count == 1 else {}
    if isinstance(row.extent, Var):
        now[row.extent.name] = Const(count)
    problem = Problem(
        cast(AttendGradientOp, attend),  # for its types, which the two ops have in common
        tuple(batch),
        Dim(row.name, Const(count)),
        attend.query_map.data,
        attend.out_map.data,
        attend.lse_map.data,
        tuple(attend.source_list),
        facts,
        names_taken(attend),
    )
    return problem.substituted(problem.batch, now, facts_about(batch, facts).simplify), now


def _key_maps(problem: Problem) -> list[Expr]:
    return [e for s in problem.sources for e in (*s.key_map, *s.value_map)]


def whole_groups(attend: attn.AttendOp, facts: tuple[Expr, ...], sizes: Mapping[str, int], pinned: bool) -> list[Expr]:
    """That groups of heads are all of one size, ``pinned`` if need be, and keys and values grouped alike."""
    alike = _alike(attend, sizes)
    problem, _ = _problem(attend, (*facts, *alike), 1)
    for dim in problem.batch:
        grouped = grouped_by(dim, _key_maps(problem), problem)
        if grouped is not None:
            c = grouped[1]
            exact = eq(op("%", dim.extent, c), Const(0))
            known = free_vars(exact) <= sizes.keys() and evaluate(c, sizes)
            if not (free_vars(exact) and known and evaluate(exact, sizes)):
                return alike
            match dim.extent, c:
                case Var(heads), Op("//", (Var(a), Var() as b)) if pinned and a == heads:
                    return [*alike, eq(dim.extent, b * int(evaluate(c, sizes)))]
            return [*alike, exact]
    return []


def _alike(attend: attn.AttendOp, sizes: Mapping[str, int]) -> list[Expr]:
    """That sizes by which keys and values divide the same dimension are equal, where they are."""
    found: list[Expr] = []
    for source in attend.source_list:
        for key, value in zip(source.key_map, source.value_map, strict=False):
            match key, value:
                case Op("//", (a, c)), Op("//", (b, d)) if a == b and c != d:
                    names = sorted(free_vars(c) - free_vars(d)), sorted(free_vars(d) - free_vars(c))
                    if [len(n) for n in names] == [1, 1] and sizes.get(names[0][0]) == sizes.get(names[1][0]):
                        found.append(eq(Var(names[1][0]), Var(names[0][0])))
    return list(dict.fromkeys(found))


def by_head(attend: attn.AttendOp, facts: tuple[Expr, ...], count: int) -> dict[str, Any] | None:
    """What changes in an attention of so many rows when the heads that share keys become rows; None if none do."""
    *batch, row = attend.domain
    problem, now = _problem(attend, facts, count)
    index = _key_maps(problem)
    shared = [d for d in batch if not any(d.name in free_vars(e) for e in index) and not _ragged(d, batch)]
    extents = {d.name for s in problem.sources for d in batch if d.name in free_vars(s.extent)}
    shared = [d for d in shared if d.name not in extents]
    if shared:
        member = shared[-1]
        batch = [d for d in batch if d is not member]
    else:
        split = by_groups(problem, index)
        if split is problem:
            return None
        problem = split
        old = {d.name for d in batch}
        *_, member = [d for d in problem.batch if d.name not in old]
        if any(member.name in free_vars(s.extent) for s in problem.sources):
            return None
        batch = [d for d in problem.batch if d is not member]
        try:
            max_over(member.extent, batch)
        except UnboundedExprError:
            return None
    rows = member
    if count > 1:  # the queries of a head, then those of the next
        rows = Dim(row.name, member.extent * count)
        by: dict[str, Expr] = {member.name: Var(row.name) // count, row.name: Var(row.name) % count}
        problem = problem.substituted(tuple(batch), by, facts_about((*batch, rows), facts).simplify)
    domain = (*batch, rows)
    sources = []
    for s in problem.sources:
        pairs = (*domain, Dim(s.key, s.extent))
        inside = facts_about(pairs, facts)
        score = Lambda(s.score.params, inside.simplify(s.score.body))
        mask = tidy(substitute(s.mask, now) if count == 1 else s.mask, pairs, facts)
        sources.append(attn.Source(s.key, s.extent, s.key_map, s.value_map, mask, score))
    return {
        "dims": domain,
        "query_map": problem.query_map,
        "out_map": problem.out_map,
        "lse_map": problem.lse_map,
        "sources": tuple(sources),
    }


def _ragged(dim: Dim, batch: Sequence[Dim]) -> bool:
    """Does the extent depend on another dimension, or another's on it?"""
    names = {d.name for d in batch}
    return bool(free_vars(dim.extent) & names) or any(dim.name in free_vars(d.extent) for d in batch)
