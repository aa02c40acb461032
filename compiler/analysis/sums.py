"""Sums of an expression over a range of integers, in closed form.

The range is cut where a comparison changes and into residue classes where a division rounds, until the expression is
linear on every piece.  The cost is that of the number of pieces, never of the number of integers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ...ir.expr import Const, Expr, Op, Var, evaluate, free_vars

MOST_PIECES = 512  # beyond this many the answer is "not in closed form"
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


def total(e: Expr, name: str, count: int, env: Mapping[str, int]) -> int | None:
    """``sum(e for name in range(count))``; None when ``e`` is not linear on few pieces."""
    pieces = [_Piece(name, 0, 1, max(count, 0), env)]
    result = seen = 0
    while pieces:
        piece = pieces.pop()
        seen += 1
        if seen + len(pieces) > MOST_PIECES:
            return None
        if piece.count == 0:
            continue
        try:
            slope, start = piece.linear(e)
        except _Cut as cut:
            if min(cut.period, piece.count) > MOST_PIECES:
                return None
            pieces += piece.parts(cut)
        except _NotLinear:
            return None
        else:
            result += start * piece.count + slope * (piece.count * (piece.count - 1) // 2)
    return result


class _NotLinear(Exception):
    """No cut makes the expression linear."""


@dataclass
class _Cut(Exception):
    """The piece must be cut at its element ``at``, or into ``period`` residue classes."""

    at: int = 0
    period: int = 0


@dataclass(frozen=True)
class _Piece:
    """``name = first + step * u`` for ``u < count``; linear forms are ``(slope, start)`` in ``u``."""

    name: str
    first: int
    step: int
    count: int
    env: Mapping[str, int]

    def parts(self, cut: _Cut) -> list[_Piece]:
        if cut.period:
            classes = range(min(cut.period, self.count))
            return [self._part(r, cut.period, len(range(r, self.count, cut.period))) for r in classes]
        return [self._part(0, 1, cut.at), self._part(cut.at, 1, self.count - cut.at)]

    def _part(self, start: int, step: int, count: int) -> _Piece:
        return _Piece(self.name, self.first + self.step * start, self.step * step, count, self.env)

    def linear(self, e: Expr) -> tuple[int, int]:
        """The value of an integer expression on this piece.  Raises :class:`_Cut` or :class:`_NotLinear`."""
        if self.name not in free_vars(e):
            value = evaluate(e, self.env)
            if not isinstance(value, int):
                raise _NotLinear
            return 0, value
        match e:
            case Var():
                return self.step, self.first
            case Op("+" | "-" as sign, (a, b)):
                (p, x), (q, y) = self.linear(a), self.linear(b)
                return (p + q, x + y) if sign == "+" else (p - q, x - y)
            case Op("*", (a, b)):
                (p, x), (q, y) = self.linear(a), self.linear(b)
                if p and q:
                    raise _NotLinear
                return p * y + q * x, x * y
            case Op("//", (a, Const(int() as by))) if by > 0:
                return self._floor(self.linear(a), by)
            case Op("%", (a, Const(int() as by))) if by > 0:
                p, x = self.linear(a)
                q, y = self._floor((p, x), by)
                return p - q * by, x - y * by
            case Op("min" | "max" as which, (a, b)):
                return self.linear(a if self._holds("<=", a, b) is (which == "min") else b)
            case Op("abs", (a,)):
                p, x = self.linear(a)
                return (p, x) if self._nonnegative(p, x) else (-p, -x)
            case Op("where", (c, a, b)):
                return self.linear(a if self.truth(c) else b)
            case Op("int", (a,)):
                return 0, int(self.truth(a))
        raise _NotLinear

    def truth(self, e: Expr) -> bool:
        """The value of a condition, if it is the same on the whole piece.  Raises as :meth:`linear` does."""
        if self.name not in free_vars(e):
            return bool(evaluate(e, self.env))
        match e:
            case Op("and", (a, b)):
                return self.truth(a) and self.truth(b)
            case Op("or", (a, b)):
                return self.truth(a) or self.truth(b)
            case Op("not", (a,)):
                return not self.truth(a)
            case Op(name, (a, b)) if name in _COMPARISONS:
                return self._holds(name, a, b)
        raise _NotLinear

    def _holds(self, name: str, a: Expr, b: Expr) -> bool:
        (p, x), (q, y) = self.linear(a), self.linear(b)
        match name:
            case "<=":
                return self._nonnegative(q - p, y - x)
            case "<":
                return self._nonnegative(q - p, y - x - 1)
            case ">=":
                return self._nonnegative(p - q, x - y)
            case ">":
                return self._nonnegative(p - q, x - y - 1)
        equal = self._nonnegative(p - q, x - y) and self._nonnegative(q - p, y - x)
        return equal is (name == "==")

    def _nonnegative(self, slope: int, start: int) -> bool:
        """Is ``slope * u + start >= 0``?  Cut where that changes."""
        first, last = start >= 0, slope * (self.count - 1) + start >= 0
        if first is not last:
            # the first u on the other side
            raise _Cut(at=-(start // slope) if slope > 0 else start // -slope + 1)
        return first

    def _floor(self, form: tuple[int, int], by: int) -> tuple[int, int]:
        slope, start = form
        if slope % by == 0:
            return slope // by, start // by
        last = (slope * (self.count - 1) + start) // by
        if last == start // by:
            return 0, last
        raise _Cut(period=by // math.gcd(slope, by))
