"""Largest and smallest values of integer expressions over iteration domains, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import poly
from ...ir.attributes import Dim
from ...ir.errors import AttncError
from ...ir.expr import Const, Expr, Op, Var, free_vars, kind_of, maximum, minimum, op
from ...ir.simplify import simplify

Interval = tuple[Expr, Expr]


class UnboundedExprError(AttncError):
    """A size depends on an index in a way that has no closed-form bound."""


def max_over(e: Expr, dims: Sequence[Dim]) -> Expr:
    """An upper bound of ``e`` over all points of ``dims``, free of their names.

    The bound is reached wherever every dimension occurs once and monotonically, which extents do:
    ``(N - r + 7) // 8`` over ``r < 8`` gives ``(N + 7) // 8``.
    """
    return _bound(e, dims, 1)


def _bound(e: Expr, dims: Sequence[Dim], side: int) -> Expr:
    # Innermost first: an extent may use the dimensions before it.
    for dim in reversed(dims):
        if dim.name in free_vars(e):
            bounds = interval(_cancelled(e), dim.name, (Const(0), dim.extent - 1))
            if bounds is None:
                raise UnboundedExprError(
                    f"{e} has no closed-form bound over {dim}; write it with +, -, * and // by constants"
                )
            e = bounds[side]
    return simplify(e, {name: (Const(0), None) for name in sorted(free_vars(e))})


def _cancelled(e: Expr) -> Expr:
    """``min(a, b) - c`` as ``min(a - c, b - c)``, so that what both sides share drops out."""
    if not isinstance(e, Op) or e.name not in ("+", "-", "//", "min", "max") or kind_of(e) != "int":
        return e
    a, b = (_cancelled(x) for x in e.args)
    match e.name, a, b:
        case "-", Op("min", (x, y)), _:
            return minimum(_cancelled(x - b), _cancelled(y - b))
        case "-", _, Op("max", (x, y)):
            return minimum(_cancelled(a - x), _cancelled(a - y))
        case "+", Op("min", (x, y)), Const():
            return minimum(x + b, y + b)
        case "+" | "-", _, _:
            return poly.to_expr(poly.of_expr(op(e.name, a, b)))
    return op(e.name, a, b)


def interval(e: Expr, name: str, within: Interval) -> Interval | None:
    """Inclusive bounds of ``e`` for ``name`` between the two, free of it; None when no rule gives them."""
    if name not in free_vars(e):
        return e, e
    if isinstance(e, Var):
        return within
    if not isinstance(e, Op):
        return None
    if e.name == "where":
        branches = [interval(a, name, within) for a in e.args[1:]]
        if None in branches:
            return None
        (a, b), (c, d) = branches  # type: ignore[misc]
        return minimum(a, c), maximum(b, d)
    bounds = [interval(a, name, within) for a in e.args]
    if e.name == "%":
        return (Const(0), e.args[1] - 1) if _positive(e.args[1]) else None
    if any(b is None for b in bounds):
        return None
    match e.name, bounds:
        case "+", [(a, b), (c, d)]:
            return a + c, b + d
        case "-", [(a, b), (c, d)]:
            return a - d, b - c
        case "*", [(a, b), (c, d)] if a == b or c == d:
            (a, b), factor = ((c, d), a) if a == b else ((a, b), c)
            if non_negative(factor):
                return a * factor, b * factor
            return (b * factor, a * factor) if isinstance(factor, Const) else None
        case "//", [(a, b), (c, d)] if c == d and _positive(c):
            return a // c, b // c
        case "min" | "max", [(a, b), (c, d)]:
            return op(e.name, a, c), op(e.name, b, d)
        case "abs", [(a, b)]:
            return maximum(a, 0 - b, 0), maximum(b, 0 - a)
    return None


def non_negative(e: Expr) -> bool:
    """Is ``e`` at least 0 by its form, size symbols and indices being so?"""
    match e:
        case Const(value):
            return value >= 0
        case Var(_, "int"):
            return True
        case Op("+" | "*" | "min", args):
            return all(non_negative(a) for a in args)
        case Op("//" | "%", (a, b)):
            return non_negative(a) and _positive(b)
        case Op("max", args):
            return any(non_negative(a) for a in args)
        case Op("abs", _):
            return True
    return kind_of(e) == "bool"


def _positive(e: Expr) -> bool:
    match e:
        case Const(value):
            return value > 0
        case Op("max", args):
            return any(_positive(a) for a in args)
        case Op("min" | "*", args):
            return all(_positive(a) for a in args)
    return False
