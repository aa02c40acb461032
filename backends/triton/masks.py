"""Masks of a tile of pairs as comparisons of its columns with bounds of its rows.

What a comparison adds of the row and of the column would be added for every pair.  With the two apart, each is
computed once for a row or a column; and of several bounds of the same columns, one is left::

    abs(i - j) <= 64 and j < end        ->        j >= i - 64 and j < min(i + 65, end)
    (i - j) % 4 == 0                    ->        j % 4 == i % 4

A pair then costs two comparisons, and one under a causal mask.
"""

from __future__ import annotations

from ...ir import poly
from ...ir.expr import Const, Expr, Op, all_of, conjuncts, eq, free_vars, ge, kind_of, lt, maximum, minimum

Bound = tuple[Expr, bool, Expr]  # of the column; is it an upper one; its value: column < value, or column >= value


def by_bounds(condition: Expr, row: str, column: str) -> Expr:
    """The condition with comparisons of rows and columns in this form."""
    if isinstance(condition, Op) and condition.name == "or":
        return Op("or", tuple(by_bounds(x, row, column) for x in condition.args))
    grouped: dict[tuple[Expr, bool], list[tuple[Expr, Expr | None]]] = {}  # -> bounds, and what said so if nothing else
    rest: list[Expr] = []
    for term in conjuncts(condition):
        bounds = _bounds(term, row, column)
        if not bounds:
            nested = isinstance(term, Op) and term.name == "or"
            rest.append(by_bounds(term, row, column) if nested else _residue(term, row, column))
        for of, upper, value in bounds:
            grouped.setdefault((of, upper), []).append((value, term if _is_apart(term, row, column) else None))
    terms = []
    for (of, upper), found in grouped.items():
        values = [value for value, _ in found]
        if len(found) == 1 and found[0][1] is not None:
            terms.append(found[0][1])
        else:
            terms.append(lt(of, minimum(*values)) if upper else ge(of, maximum(*values)))
    return all_of([*terms, *rest])


def _is_apart(term: Expr, row: str, column: str) -> bool:
    """Has each side of a comparison to do with rows alone, or with columns?"""
    return term.name in _LESS and not any({row, column} <= free_vars(x) for x in term.args)  # type: ignore[attr-defined]


# comparison of a and b -> is it of a - b, or of b - a, and below what
_LESS = {"<": (1, 0), "<=": (1, 1), ">": (-1, 0), ">=": (-1, 1)}


def _bounds(term: Expr, row: str, column: str) -> list[Bound]:
    """What a comparison says about something of the column alone; nothing where rows and columns mix otherwise."""
    if not isinstance(term, Op) or term.name not in _LESS or any(kind_of(x) != "int" for x in term.args):
        return []
    sign, below = _LESS[term.name]
    a, b = term.args if sign > 0 else term.args[::-1]
    if isinstance(a, Op) and a.name == "abs" and column not in free_vars(b):
        both = [_bound(x - b, below, row, column) for x in (a.args[0], Const(0) - a.args[0])]
    else:
        both = [_bound(a - b, below, row, column)]
    return [] if None in both else [x for x in both if x is not None]


def _bound(e: Expr, below: int, row: str, column: str) -> Bound | None:
    """``e < below`` as a bound of the column's part of ``e``."""
    found = _divided(e, row, column)
    if found is None:
        return None
    own, others = found
    if next(iter(own.values())) > 0:
        return poly.to_expr(own), True, poly.to_expr(poly.add(poly.constant(below), others, -1))
    return poly.to_expr(poly.scale(own, -1)), False, poly.to_expr(poly.add(others, poly.constant(1 - below)))


def _residue(term: Expr, row: str, column: str) -> Expr:
    """``(i - j) % 4 == k`` as a comparison of two residues."""
    match term:
        case Op("==", (Op("%", (x, Const(int() as by))), Const(int() as rest))) if 0 <= rest < by:
            found = _divided(x, row, column)
            if found is None or not any(row in free_vars(atom) for atom in poly.atoms(found[1])):
                return term
            own, others = found
            if next(iter(own.values())) > 0:
                others = poly.scale(others, -1)
            else:
                own, rest = poly.scale(own, -1), -rest
            return eq(poly.to_expr(own) % by, poly.to_expr(poly.add(others, poly.constant(rest))) % by)
    return term


def _divided(e: Expr, row: str, column: str) -> tuple[poly.Poly, poly.Poly] | None:
    """The sum's part of the column, and the rest; None where rows and columns mix, or there is no such part."""
    own: poly.Poly = {}
    others: poly.Poly = {}
    for monomial, factor in poly.of_expr(e).items():
        used = frozenset().union(*(free_vars(atom) for atom in monomial))
        if column in used and row in used:
            return None
        (own if column in used else others)[monomial] = factor
    return (own, others) if own else None
