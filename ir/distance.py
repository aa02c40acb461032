"""Indices that row and key of a pair decide by their distance alone."""

from __future__ import annotations

from collections.abc import Sequence

from . import poly
from .expr import Expr, Var, free_vars, kind_of, rewrite

DISTANCE = "row_less_key"


def by_distance(index: Sequence[Expr], row: str, key: str) -> tuple[Expr, ...] | None:
    """An index as a function of ``row - key``, called :data:`DISTANCE`; None where it is not one."""
    found = tuple(rewrite(e, lambda x: _distance(x, row, key)) for e in index)
    return None if any(free_vars(e) & {row, key} for e in found) else found


def _distance(e: Expr, row: str, key: str) -> Expr | None:
    """A multiple of the distance and something else, said by the distance."""
    if kind_of(e) != "int" or not {row, key} <= free_vars(e):
        return None
    first = poly.split_linear(poly.of_expr(e), Var(row))
    second = poly.split_linear(first[1], Var(key)) if first else None
    if first is None or second is None or poly.add(first[0], second[0]):
        return None
    if any(free_vars(a) & {row, key} for p in (first[0], second[1]) for a in poly.atoms(p)):
        return None
    return poly.to_expr(poly.add(poly.multiply(first[0], {(Var(DISTANCE),): 1}), second[1]))
