"""Bounds of an index in terms of sizes alone, for the guards that a gather needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir import poly
from ...ir.expr import Const, Expr, Op, Var, free_vars, kind_of, op

if TYPE_CHECKING:
    from .values import Values


def bound(values: Values, e: Expr, upper: bool) -> Expr | None:
    """An expression of sizes that ``e`` never exceeds (or never falls below); None where none is found."""
    match e:
        case Const():
            return e
        case Var(name):
            if name in values.extents:
                return values.simplify(values.extents[name] - 1) if upper else Const(0)
            return e if name in values.sizes else None
        case Op("+" | "-" | "*", _) if kind_of(e) == "int":
            return _sum(values, e, upper)
        case Op("min" | "max" | "where" as name, args):
            found = [bound(values, x, upper) for x in args[-2:]]
            a, b = found
            match args[0]:
                case Op("<" | "<=" as less, (x, end)) if name == "where" and upper:
                    # the condition, solved for what is chosen: x <= limit
                    limit = values.simplify(args[1] + end - x - (1 if less == "<" else 0))
                    limit = None if free_vars(limit) - set(values.sizes) else bound(values, limit, True)
                    a = limit if a is None or limit is None else op("min", a, limit)
            if a is None or b is None:
                one = a or b
                return one if one is not None and name == ("min" if upper else "max") else None
            return op(("max" if upper else "min") if name == "where" else name, a, b)
        case Op("//", (x, Const(c))) if c > 0:
            inner = bound(values, x, upper)
            return None if inner is None else inner // c
        case Op("%", (_, b)) if values.facts.nonnegative(b - 1):
            if not upper:
                return Const(0)
            inner = bound(values, b, True)
            return None if inner is None else inner - 1
        case Op("abs", (x,)):
            low, high = bound(values, x, False), bound(values, x, True)
            return Const(0) if not upper else None if low is None or high is None else op("max", high, -low)
    return None


def _sum(values: Values, e: Expr, upper: bool) -> Expr | None:
    """Each atom at its worst, where its factor's sign is known."""
    total: Expr = Const(0)
    for monomial, factor in poly.of_expr(e).items():
        term: Expr = Const(factor)
        inner = [a for a in monomial if not (isinstance(a, Var) and a.name in values.sizes)]
        if len(inner) > 1:
            return None
        for a in monomial:
            worst = bound(values, a, upper == (factor > 0)) if a in inner else a
            if worst is None:
                return None
            term = term * worst
        total = total + term
    return values.simplify(total)
