"""What is certain about an expression whatever the sizes: signs, divisibility, values of dead elements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from ...ir.expr import OPS, Const, Expr, Op, Var, kind_of, remembered

# The value of a tile's dead elements along one axis: a number, some finite number, or anything.
Fill = float | Literal["finite", "any"]


def nonnegative(e: Expr) -> bool:
    """Certainly >= 0, given that indices and sizes are."""
    match e:
        case Const(value):
            return value >= 0
        case Var(_, kind):
            return kind == "int"
        case Op("+" | "*" | "min" | "&", (a, b)):
            return nonnegative(a) and nonnegative(b)
        case Op("max" | "|", (a, b)):
            return nonnegative(a) or nonnegative(b)
        case Op("//", (a, b)):
            return nonnegative(a) and nonnegative(b)
        case Op("%", (_, b)):
            return nonnegative(b)
        case Op("where", (_, a, b)):
            return nonnegative(a) and nonnegative(b)
        case Op("abs", _):
            return True
        case Op(">>", (a, _)):
            return nonnegative(a)
    return False


def divisible(e: Expr, n: int) -> bool:
    """Certainly a multiple of ``n``."""
    match e:
        case Const(value):
            return isinstance(value, int) and value % n == 0
        case Op("*", (a, b)):
            return divisible(a, n) or divisible(b, n)
        case Op("+" | "-" | "min" | "max", (a, b)):
            return divisible(a, n) and divisible(b, n)
    return n == 1


_LONGEST = 1 << 20  # tokens, and any other size, for which arithmetic of 32 bits is kept


@remembered
def largest(e: Expr) -> float:
    """What the modulus of an integer does not exceed while no size is beyond ``_LONGEST``."""
    match e:
        case Const(value):
            return abs(value)
        case Op("+" | "-", (a, b)):
            return largest(a) + largest(b)
        case Op("*", (a, b)):
            return largest(a) * largest(b)
        case Op("//", (a, Const(int() as by))) if by != 0:
            return largest(a) / abs(by) + 1
        case Op("%", (_, b)):
            return largest(b)
        case Op("&", (a, b)) if nonnegative(a) or nonnegative(b):
            return min(largest(x) for x in (a, b) if nonnegative(x))
        case Op("min" | "max" | "//", args):
            return max(map(largest, args))
        case Op("&" | "|" | "^", args):
            return 2 * max(map(largest, args))
        case Op("where", (_, a, b)):
            return max(largest(a), largest(b))
        case Op("abs" | ">>", (a, *_)):
            return largest(a)
        case Op("int", (a,)) if kind_of(a) == "bool":
            return 1
        case Op("<<" | "pow", _):
            return math.inf
    return _LONGEST  # a variable, a value of a tensor (which has its own type), or a float that was rounded


def is_wide(e: Expr) -> bool:
    """May an integer that ``e`` looks at, beyond its low bits, need more than 32 of them?"""
    inner = e.args if isinstance(e, Op) and e.name not in MODULAR else ()
    return any(kind_of(a) == "int" and largest(a) >= 1 << 31 for a in inner) or any(map(is_wide, e.children))


MODULAR = {"+", "-", "*", "<<", "&", "|", "^", "pow", "where"}  # the low bits of the result depend on low bits alone


def most(e: Expr) -> float:
    """What ``e`` certainly does not exceed."""
    match e:
        case Const(value):
            return float(value)
        case Op("min", args):
            return min(map(most, args))
        case Op("max", args):
            return max(map(most, args))
        case Op("where", (_, a, b)):
            return max(most(a), most(b))
    return float("inf")


def fill_of(e: Expr, known: Mapping[str, Fill]) -> Fill:
    """The value of ``e`` where its float variables hold ``known``; other variables are integers."""
    match e:
        case Const(value):
            return float(value)
        case Var(name, _):
            return known.get(name, "finite")
        case Op("where", (_, a, b)):
            return _join(fill_of(a, known), fill_of(b, known))
        case Op(name, args):
            values = [fill_of(a, known) for a in args]
            if all(isinstance(v, float) for v in values):
                try:
                    return float(OPS[name][1](*values))
                except (ArithmeticError, ValueError, TypeError):
                    return "any"
            if name in ("+", "-") and "any" not in values:
                infinite = [v for v in values if isinstance(v, float) and abs(v) == float("inf")]
                if infinite and values[0] in infinite:
                    return infinite[0]
                return -infinite[0] if infinite and name == "-" else infinite[0] if infinite else "finite"
            if name == "*" and "any" not in values and not any(v in (float("inf"), float("-inf")) for v in values):
                return 0.0 if 0.0 in values else "finite"
            if name in ("//", "%") and kind_of(e) == "int":
                return "finite"
    return "any"


def _join(a: Fill, b: Fill) -> Fill:
    if a == b:
        return a
    finite = all(x == "finite" or (isinstance(x, float) and abs(x) != float("inf") and x == x) for x in (a, b))
    return "finite" if finite else "any"
