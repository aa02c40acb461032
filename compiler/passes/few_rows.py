"""Attention of few query rows, as at decoding: one tile holds the rows of all heads that share keys.

before, called with ``N == 1``::

    attn.attend over "b < B, h < H, i < N" query %q "b, h, i, d" source "j < M" key %k "b, h // 4, j, d" ...

after, with a guard ``N == 1``::

    attn.attend over "b < B, hk < H // 4, g < 4" query %q "b, hk * 4 + g, 0, d" source "j < M" key %k "b, hk, j, d" ...
      tiles "4 x 128"

Sizes are symbols, and one kernel serves them all; but a tile of 64 rows wastes most of itself on one row.  So a call
with one query gets a plan of its own: a guard, ``N == 1`` here and ``N >= 2`` elsewhere, keeps other calls away.  A
constant number of rows needs no guard.

Legality: with one row ``i`` is 0, and the members of a group of heads are as good rows as any: an attention gives the
same whatever dimension of its domain is called the row, as long as keys do not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp
from xdsl.passes import ModulePass

from ...ir import attn
from ...ir.attributes import Dim, ExprAttr
from ...ir.expr import Const, Expr, Lambda, Op, Var, eq, evaluate, free_vars, op, substitute
from ...ir.gradient import AttendGradientOp
from ..analysis.bounds import UnboundedExprError, max_over
from ..analysis.cost import device
from .common import attends, facts_about, tidy
from .gradient_groups import by_groups, grouped_by
from .gradient_problem import Problem
from .kernel_builder import names_taken
from .rewriting import replace

MOST_ROWS = 32  # of a constant number of rows that are few
KEYS = 64  # of a tile: their values stay in the level-1 cache until they are needed


@dataclass(frozen=True)
class FewRows(ModulePass):
    """Options: ``target`` is the device; ``names`` and ``values`` are the sizes of the call at hand."""

    name = "few-rows"
    target: str = "cpu-avx512"
    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()

    def apply(self, ctx: Context, module: ModuleOp) -> None:
        sizes = dict(zip(self.names, self.values, strict=True))
        if device(self.target).is_gpu or not sizes:
            return
        for func in [f for f in module.walk() if isinstance(f, attn.FuncOp)]:
            guards = [g.data for g in func.guards]
            for attend, facts in attends(module):
                if attend.tiles is None:
                    guards += _change(attend, facts, sizes)
            func.guards = ArrayAttr([ExprAttr(g) for g in dict.fromkeys(guards)])


def count_of(extent: Expr, batch: Sequence[Dim], sizes: Mapping[str, int]) -> tuple[Expr, int] | None:
    """The largest value of an extent, as an expression of sizes and as a number; None where they are not known."""
    try:
        most = max_over(extent, batch)
    except UnboundedExprError:
        return None
    return (most, int(evaluate(most, sizes))) if free_vars(most) <= sizes.keys() else None


def _change(attend: attn.AttendOp, facts: tuple[Expr, ...], sizes: Mapping[str, int]) -> list[Expr]:
    """Rewrite one attention; the guards that it then relies on."""
    *batch, row = attend.domain
    found = count_of(row.extent, batch, sizes)
    if found is None or found[1] < 1:
        return []
    extent, count = found
    if count > 1:
        if isinstance(extent, Const):
            if count <= MOST_ROWS:
                replace(attend, attend.rebuilt(tiles=(tile_rows(min(count, 16)), KEYS)))
            return []
        return [at_least(extent, 2)]
    whole = whole_groups(attend, facts, sizes)
    changes = by_head(attend, (*facts, *whole))
    if changes is None:
        replace(attend, attend.rebuilt(tiles=(1, KEYS)))
        whole = []
    else:
        *batch, row = changes["dims"]
        members = count_of(row.extent, batch, sizes)
        replace(attend, attend.rebuilt(**changes, tiles=(tile_rows(members[1] if members else 1), KEYS)))
    return whole if isinstance(extent, Const) else [eq(extent, Const(1)), *whole]


def at_least(e: Expr, bound: int) -> Expr:
    """``e >= bound`` without divisions where they go away: later passes read guards as facts."""
    match e:
        case Op("//", (x, Const(int(c)))) if c > 0:
            return at_least(x, bound * c)
        case Op("+", (x, Const(int(c)))):
            return at_least(x, bound - c)
    return op(">=", e, Const(bound))


def tile_rows(count: int) -> int:
    """The power of two that holds this many rows, at most 64."""
    return min(64, 1 << max(count - 1, 0).bit_length())


def _problem(attend: attn.AttendOp, facts: tuple[Expr, ...]) -> tuple[Problem, dict[str, Expr]]:
    """The attention with 0 for its row, and what stands for what then."""
    *batch, row = attend.domain
    now: dict[str, Expr] = {row.name: Const(0)}
    if isinstance(row.extent, Var):
        now[row.extent.name] = Const(1)
    problem = Problem(
        cast(AttendGradientOp, attend),  # for its types, which the two ops have in common
        tuple(batch),
        Dim(row.name, Const(1)),
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


def whole_groups(attend: attn.AttendOp, facts: tuple[Expr, ...], sizes: Mapping[str, int]) -> list[Expr]:
    """That groups of heads are all of one size, where they are."""
    problem, _ = _problem(attend, facts)
    for dim in problem.batch:
        grouped = grouped_by(dim, _key_maps(problem), problem)
        if grouped is not None:
            exact = eq(op("%", dim.extent, grouped[1]), Const(0))
            known = free_vars(exact) <= sizes.keys() and evaluate(grouped[1], sizes)
            return [exact] if free_vars(exact) and known and evaluate(exact, sizes) else []
    return []


def by_head(attend: attn.AttendOp, facts: tuple[Expr, ...]) -> dict[str, Any] | None:
    """What changes in an attention of one row when the heads that share keys become its rows; None if none do."""
    batch = list(attend.domain[:-1])
    problem, now = _problem(attend, facts)
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
    domain = (*batch, member)
    sources = []
    for s in problem.sources:
        pairs = (*domain, Dim(s.key, s.extent))
        inside = facts_about(pairs, facts)
        score = Lambda(s.score.params, inside.simplify(s.score.body))
        mask = tidy(substitute(s.mask, now), pairs, facts)
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
