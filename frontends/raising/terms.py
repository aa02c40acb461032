"""Scalar terms: what one element of a traced tensor is, as an expression.

A tensor that a term does not look into is a ``Load`` named after its node (``%12``).  Reductions and products
are such loads too, and are looked into by :mod:`.contract` only where the matcher asks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ...ir.expr import FALSE, OPS, TRUE, Const, Expr, ExprLike, Kind, Load, Op, const, free_vars, kind_of, op, walk
from ..graph import Location, Node

NEG_INF = Const(-math.inf)
_ARITHMETIC = {"+", "-", "*", "/", "//", "%", "min", "max", "abs", "pow", "<", "<=", ">", ">=", "==", "!="}


class NoMatch(Exception):
    """This value is not an attention that can be fused.

    ``loud``: it looks like one, and ``reason`` is for users.  ``attention``: it surely is one.
    """

    def __init__(self, reason: str = "", location: Location | None = None, loud: bool = True, attention: bool = False):
        super().__init__(reason)
        self.attention = attention
        self.reason, self.location, self.loud = reason, location, loud and bool(reason)


def kind_of_dtype(dtype: torch.dtype) -> Kind:
    return "bool" if dtype == torch.bool else "float" if dtype.is_floating_point else "int"


def load(node: Node, index: Sequence[Expr]) -> Load:
    """An element of ``node``, not looked into."""
    return Load(f"%{node.name}", tuple(index), kind_of_dtype(node.dtype))


def number(e: Expr, kind: Kind = "int") -> Expr:
    """A condition as the number 0 or 1; numbers pass."""
    if kind_of(e) != "bool":
        return e
    one, zero = (1.0, 0.0) if kind == "float" else (1, 0)
    return op("where", e, one, zero)


def apply(name: str, *args: ExprLike) -> Expr:
    """``op``, with conditions as numbers where arithmetic meets them, and constants pushed into ``where``.

    ``log(where(m, 1.0, 0.0))`` and ``(1 - where(m, 1.0, 0.0)) * -1e9`` become ``where`` of constants again.
    """
    xs = [const(a) for a in args]
    if name in _ARITHMETIC and not (name in ("==", "!=") and all(kind_of(x) == "bool" for x in xs)):
        kind: Kind = "float" if any(kind_of(x) == "float" for x in xs) else "int"
        xs = [number(x, kind) for x in xs]
    elif name in OPS and OPS[name][0] == "float" and len(xs) == 1:
        xs = [number(x, "float") for x in xs]
    if name in ("==", "!=") and all(kind_of(x) == "bool" for x in xs) and Const not in map(type, xs):
        a, b = xs
        same = op("or", op("and", a, b), op("and", op("not", a), op("not", b)))
        return same if name == "==" else op("not", same)
    choices = [x for x in xs if _is_choice(x)]
    if len(choices) == 1 and name != "where" and all(isinstance(x, Const) or x is choices[0] for x in xs):
        choice = choices[0]
        cond, a, b = choice.children
        with_a, with_b = (op(name, *(v if x is choice else x for x in xs)) for v in (a, b))
        if isinstance(with_a, Const) and isinstance(with_b, Const):
            if isinstance(with_a.value, bool):
                return _choose(cond, with_a.value, with_b.value)  # type: ignore[arg-type]
            return op("where", cond, with_a, with_b)
    return op(name, *xs)


def _is_choice(e: Expr) -> bool:
    return isinstance(e, Op) and e.name == "where" and isinstance(e.args[1], Const) and isinstance(e.args[2], Const)


def _choose(cond: Expr, a: bool, b: bool) -> Expr:
    if a == b:
        return TRUE if a else FALSE
    return cond if a else op("not", cond)


def truth(e: Expr) -> Expr:
    """A number as a condition: is it not 0?"""
    return e if kind_of(e) == "bool" else apply("!=", e, 0)


def has_loads(e: Expr) -> bool:
    return any(isinstance(x, Load) for x in walk(e))


def uses(e: Expr, names: str | set[str] | frozenset[str]) -> bool:
    """Does ``e`` use the variable (or one of the variables)?"""
    return bool(free_vars(e) & ({names} if isinstance(names, str) else names))


def holds_infinity(e: Expr) -> bool:
    return any(isinstance(x, Const) and isinstance(x.value, float) and math.isinf(x.value) for x in walk(e))


def addends(e: Expr, sign: int = 1) -> list[tuple[int, Expr]]:
    """The terms of a sum, each with its sign."""
    match e:
        case Op("+", (a, b)):
            return addends(a, sign) + addends(b, sign)
        case Op("-", (Const(0), a)):
            return addends(a, -sign)
        case Op("-", (a, b)):
            return addends(a, sign) + addends(b, -sign)
    return [(sign, e)]


def total(terms: Sequence[tuple[int, Expr]]) -> Expr:
    """The sum of signed terms; 0.0 when empty."""
    result: Expr | None = None
    for sign, term in terms:
        if result is None:
            result = term if sign > 0 else -term
        else:
            result = result + term if sign > 0 else result - term
    return Const(0.0) if result is None else result


def factors(e: Expr) -> tuple[list[Expr], list[Expr]]:
    """Numerator and denominator of a product."""
    match e:
        case Op("*", (a, b)):
            (na, da), (nb, db) = factors(a), factors(b)
            return na + nb, da + db
        case Op("/", (a, b)):
            (na, da), (nb, db) = factors(a), factors(b)
            return na + db, da + nb
    return [e], []


def product(terms: Sequence[Expr]) -> Expr:
    """The product; 1.0 when empty."""
    result: Expr | None = None
    for t in terms:
        result = t if result is None else result * t
    return Const(1.0) if result is None else result
