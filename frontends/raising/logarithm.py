"""Weights that a sum normalises, as exponentials: ``f * exp(s)`` is ``exp(s + log(f))``.

What multiplies an exponential is taken to be positive, as a weight is: the logarithm of a negative number is NaN.
Weights that hold no exponential at all, a polynomial of the inner product, say, must be provably positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ir.expr import Const, Expr, Load, Op, op, walk
from .terms import NoMatch, factors
from .values import Values


def logarithm(values: Values, f: Expr, sure: bool) -> Expr:
    """``log(f)``; with ``sure``, raises :class:`NoMatch` unless ``f`` is positive whatever the tensors hold."""
    match f:
        case Const(value):
            if not value > 0:
                raise NoMatch(f"the weights are multiplied by {value} before their sum divides them")
            return Const(math.log(value))
        case Op("exp", (x,)):
            return x
        case Op("where", (cond, a, b)):
            return op("where", cond, logarithm(values, a, sure), logarithm(values, b, sure))
    num, den = factors(f)
    if len(num) + len(den) > 1:
        terms = [logarithm(values, x, sure) for x in (*num, *den)]
        result = terms[0]
        for n, x in enumerate(terms[1:], 1):
            result = result + x if n < len(num) else result - x
        return result
    if isinstance(f, Load) and not values.pairwise(f.index) and not sure:
        node = values.node_of(f)  # once for each element, not for each pair
        return Load(f"%{values.made('logarithm', 'torch.log(x0)', (node,), node.shape, node).name}", f.index, f.kind)
    if sure and not positive(f):
        raise NoMatch("the weights are not an exponential, and may be negative or 0, so this is not a softmax")
    return op("log", f)


def positive(e: Expr) -> bool:
    """Is the number ``e`` above 0 whatever its loads are?"""
    match e:
        case Const(value):
            return value > 0
        case Op("exp" | "exp2" | "sigmoid", _):
            return True
        case Op("+", (a, b)) if (positive(a) and _nonnegative(b)) or (positive(b) and _nonnegative(a)):
            return True
        case Op("*" | "/" | "min", (a, b)) if positive(a) and positive(b):
            return True
        case Op("max", (a, b)):
            return positive(a) or positive(b)
        case Op("where", (_, a, b)):
            return positive(a) and positive(b)
    for t in dict.fromkeys(x for x in walk(e) if x != e and any(isinstance(y, Load) for y in walk(x))):
        c = _coefficients(e, t)
        if c is not None and len(c) == 3 and c[2] > 0 and c[1] ** 2 < 4 * c[0] * c[2]:
            return True  # a parabola without a root
    return False


def _nonnegative(e: Expr) -> bool:
    match e:
        case Op("*", (a, b)) if a == b or (_nonnegative(a) and _nonnegative(b)):
            return True
        case Op("/", (a, b)) if _nonnegative(a) and positive(b):
            return True
        case Op("abs", _):
            return True
        case Op("max", (a, b)):
            return any(x == Const(0) or x == Const(0.0) or positive(x) for x in (a, b))
    return positive(e)


def _coefficients(e: Expr, t: Expr) -> Sequence[float] | None:
    """``e`` as a polynomial in ``t`` with constant coefficients."""
    if e == t:
        return [0.0, 1.0]
    match e:
        case Const(value):
            return [float(value)]
        case Op("+" | "-" | "*" | "/" as name, (a, b)):
            x, y = _coefficients(a, t), _coefficients(b, t)
            if x is None or y is None:
                return None
            if name == "*":
                result = [0.0] * (len(x) + len(y) - 1)
                for n, p in enumerate(x):
                    for m, q in enumerate(y):
                        result[n + m] += p * q
                return result
            if name == "/":
                return [p / y[0] for p in x] if len(y) == 1 and y[0] else None
            sign = 1.0 if name == "+" else -1.0
            size = max(len(x), len(y))
            x, y = ([*c, *[0.0] * (size - len(c))] for c in (x, y))
            return [p + sign * q for p, q in zip(x, y, strict=True)]
    return None
