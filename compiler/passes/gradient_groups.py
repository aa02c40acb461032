"""Split a dimension that a key map groups, so that the group is a dimension of its own.

before::

    over "b < B, h < H, i < N" ... key "b, h // 4, j, d"

after::

    over "b < B, hk < H // 4, g < 4, i < N" ... key "b, hk, j, d"

The heads of a group then run in order within one task, which adds up their gradients of the shared keys.

Legality: ``h = hk * 4 + g`` (or ``g * c + hk`` for ``h % c``) takes every value once; where the division is not known
to be exact, the extent of ``g`` depends on ``hk``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir import poly
from ...ir.attributes import Dim
from ...ir.expr import Const, Expr, Op, Var, ceildiv, conjuncts, free_vars, minimum
from .common import facts_about
from .gradient_problem import Problem
from .kernel_builder import fresh


def by_groups(problem: Problem, index: Sequence[Expr]) -> Problem:
    """The problem with every dimension split that ``index`` uses in groups only."""
    for n, dim in enumerate(problem.batch):
        grouped = grouped_by(dim, index, problem)
        if grouped is not None:
            return _split(problem, n, *grouped)
    return problem


def grouped_by(dim: Dim, index: Sequence[Expr], problem: Problem) -> tuple[str, Expr] | None:
    """``("//", c)`` or ``("%", c)`` when the index uses the dimension that way, and no other."""
    names = {d.name for d in problem.batch}
    if free_vars(dim.extent) & names or any(dim.name in free_vars(d.extent) for d in problem.batch):
        return None
    found = {e for e in index if dim.name in free_vars(e)}
    if len(found) == 1:
        match found.pop():
            case Op("//" | "%" as kind, (Var(), c)) if not free_vars(c) & names and c != Const(1):
                return kind, c
    return None


def _split(problem: Problem, at: int, kind: str, c: Expr) -> Problem:
    dim, taken = problem.batch[at], set(problem.taken)
    group, member = fresh(f"{dim.name}k", taken), fresh("g", taken)
    count = _quotient(dim.extent, c, problem.facts)
    if kind == "//":
        old = Var(group) * c + Var(member)
        size = c if count is not None else minimum(c, dim.extent - Var(group) * c)
        dims = Dim(group, count or ceildiv(dim.extent, c)), Dim(member, size)
    else:
        old = Var(member) * c + Var(group)
        size = count if count is not None else (dim.extent - Var(group) + (c - 1)) // c
        dims = Dim(group, c if count is not None else minimum(c, dim.extent)), Dim(member, size)
    batch = (*problem.batch[:at], *dims, *problem.batch[at + 1 :])
    known = facts_about(batch, problem.facts)
    return replace(problem.substituted(batch, {dim.name: old}, known.simplify), taken=taken)


def _quotient(e: Expr, c: Expr, facts: Sequence[Expr]) -> Expr | None:
    """``e / c`` where that is known to be exact."""
    match c:
        case Op("//", (whole, part)) if whole == e and _divides(part, e, facts):
            return part
    if _divides(c, e, facts):
        return e // c
    equal = [e]
    for fact in (f for whole in facts for f in conjuncts(whole)):
        match fact:
            case Op("==", (a, b)) if e in (a, b):
                equal.append(b if a == e else a)
    for same in equal:
        quotient, rest = poly.divide(poly.of_expr(same), poly.of_expr(c))
        if not rest:
            return poly.to_expr(quotient)
    return None


def _divides(part: Expr, whole: Expr, facts: Sequence[Expr]) -> bool:
    """Is that a fact?"""
    exact = Op("==", (Op("%", (whole, part)), Const(0)))
    return any(fact == exact for given in facts for fact in conjuncts(given))
