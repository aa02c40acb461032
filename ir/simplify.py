"""Simplification of expressions under facts about their variables.

``simplify(e, {"i": (0, N - 1)})`` returns an expression that is equal to ``e`` wherever the facts hold:
integer sums become a normal form, ``(g * 128 + i) // 128`` becomes ``g`` when ``0 <= i < 128``, comparisons lose
what both sides share, and conditions that always or never hold become constants.  Floating-point
arithmetic is left as it is, so that numbers do not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import gcd

from . import poly
from .expr import FALSE, TRUE, Const, Expr, Load, Op, Var, kind_of, op
from .knowledge import Range
from .poly import Poly
from .prove import Prover

_COMPARE = ("<", "<=", ">", ">=", "==", "!=")


class Facts(Prover):
    """What is known about variables, and the simplifications that follow.  ``witness`` only saves time."""

    def __init__(
        self,
        ranges: Mapping[str, Range] | None = None,
        holds: Iterable[Expr] = (),
        witness: Mapping[str, int] | None = None,
    ):
        super().__init__(ranges, holds, witness)
        self._memo: dict[Expr, Expr] = {}

    # ---- simplification ---------------------------------------------------------------------------------

    def simplify(self, e: Expr) -> Expr:
        """An equal, simpler expression."""
        done = self._memo.get(e)
        if done is None:
            done = self._memo[e] = self._simplify(e)
            self._memo[done] = done
        return done

    def _simplify(self, e: Expr) -> Expr:
        match e:
            case Const():
                return e
            case Var(name):
                return self.equal.get(name, e)
            case Load(tensor, index, kind):
                return Load(tensor, tuple(self.simplify(x) for x in index), kind)
            case Op("and" | "or" as name, _):
                return self._junction(name, e)
            case Op("not", (Op("and" | "or" as name, parts),)):
                return self._junction("or" if name == "and" else "and", _negated(name, parts))
            case Op("not", (Op("not", (inner,)),)):
                return self.simplify(inner)
            case Op(name, args):
                return self._op(name, tuple(self.simplify(a) for a in args))
        return e

    def _op(self, name: str, args: tuple[Expr, ...]) -> Expr:
        e = op(name, *args)
        if not isinstance(e, Op) or e.name != name or e.args != args:
            # folding gave something else, whose parts are simple already
            return e if not isinstance(e, Op) or e in args else self._op(e.name, e.args)
        if name in _COMPARE and all(kind_of(a) == "int" for a in args):
            return self._compare(name, *args)
        if name == "where":
            return self._where(*args)
        if kind_of(e) != "int":
            return e
        match name:
            case "+" | "-" | "*":
                return poly.to_expr(self.merge(poly.of_expr(e)))
            case "//":
                return self._floordiv(*args)
            case "%":
                return self._mod(*args)
            case "min" | "max":
                return self._extreme(name, *args)
            case "abs":
                return self._abs(args[0])
        return e

    def _floordiv(self, a: Expr, b: Expr) -> Expr:
        pa, pb = poly.of_expr(a), poly.of_expr(b)
        if not pb:
            return op("//", a, b)
        quotient, rest = self._divide(pa, pb)
        if self._within(rest, pb):
            return poly.to_expr(self.merge(quotient))
        c = poly.constant_value(pb)
        if c is not None and c > 0:
            # a common factor of the divisor and all but a small remainder
            g = gcd(c, *(k for m, k in rest.items() if m))
            if g > 1:
                small = rest.get((), 0) % g
                reduced = {m: k // g for m, k in poly.add(rest, poly.constant(small), -1).items()}
                inner = self._floordiv(poly.to_expr(reduced), Const(c // g))
                return poly.to_expr(self.merge(poly.add(quotient, poly.of_expr(inner))))
            for g in sorted({gcd(c, k) for m, k in rest.items() if m} - {1, c}, reverse=True):
                multiple = {m: k for m, k in rest.items() if k % g == 0}
                if self._within(poly.add(rest, multiple, -1), poly.constant(g)):
                    inner = self._floordiv(poly.to_expr({m: k // g for m, k in multiple.items()}), Const(c // g))
                    return poly.to_expr(self.merge(poly.add(quotient, poly.of_expr(inner))))
        match poly.to_expr(rest):
            case Op("//", (x, d)) if c is not None and c > 0 and isinstance(d, Const) and d.value > 0:
                inner = self._floordiv(x, d * b)
            case r:
                inner = op("//", r, b)
        return poly.to_expr(self.merge(poly.add(quotient, poly.of_expr(inner))))

    def _divide(self, a: Poly, b: Poly) -> tuple[Poly, Poly]:
        quotient, rest = poly.divide(a, b)
        c = poly.constant_value(b)
        if c is not None and c > 0:  # leave less than one divisor in the constant of the remainder
            k = int(rest.get((), 0) / c)
            quotient, rest = poly.add(quotient, poly.constant(k)), poly.add(rest, poly.constant(k * c), -1)
        if not self._within(rest, b):
            for k in (-1, 1):  # x - 1 = -1 * b + (x - 1 + b), for a divisor that is a size
                moved = poly.add(rest, b, k)
                if self._within(moved, b):
                    return poly.add(quotient, poly.constant(k), -1), moved
        return quotient, rest

    def _mod(self, a: Expr, b: Expr) -> Expr:
        if (a, b) in self.exact:
            return Const(0)
        pb = poly.of_expr(b)
        if not pb:
            return op("%", a, b)
        pa = poly.of_expr(a)
        for m, k in list(pa.items()):  # (x % (b * n)) % b = x % b
            if len(m) == 1 and isinstance(m[0], Op) and m[0].name == "%":
                x, c = m[0].args
                if not poly.divide(poly.of_expr(c), pb)[1]:
                    pa = poly.add(poly.add(pa, {m: k}, -1), poly.of_expr(x), k)
        rest = self._divide(pa, pb)[1]
        if self._within(rest, pb):
            return poly.to_expr(self.merge(rest))
        c = poly.constant_value(pb)
        if c is not None and c > 0:
            for g in sorted({gcd(c, k) for m, k in rest.items() if m} - {1}, reverse=True):
                multiple = {m: k for m, k in rest.items() if k % g == 0}
                small = poly.add(rest, multiple, -1)
                if self._within(small, poly.constant(g)):
                    inner = self._mod(poly.to_expr({m: k // g for m, k in multiple.items()}), Const(c // g))
                    return poly.to_expr(poly.add(small, poly.of_expr(inner), g))
        return op("%", poly.to_expr(self.merge(rest)), b)

    def _extreme(self, name: str, a: Expr, b: Expr) -> Expr:
        d = poly.add(poly.of_expr(b), poly.of_expr(a), -1)
        if self._nonneg(d):
            return a if name == "min" else b
        if self._nonneg(poly.scale(d, -1)):
            return b if name == "min" else a
        return op(name, a, b)

    def _abs(self, a: Expr) -> Expr:
        p = poly.of_expr(a)
        minus = poly.scale(p, -1)
        if self._nonneg(p):
            return a
        if self._nonneg(minus):
            return poly.to_expr(minus)
        g = gcd(*p.values())
        if g > 1:
            return op("*", self._abs(poly.to_expr({m: c // g for m, c in p.items()})), g)
        first = min(str(poly.to_expr(p)), str(poly.to_expr(minus)), key=lambda t: (t.startswith("-"), len(t), t))
        return op("abs", a if first == str(poly.to_expr(p)) else poly.to_expr(minus))

    def _where(self, c: Expr, a: Expr, b: Expr) -> Expr:
        if kind_of(a) == kind_of(b) == "bool" and isinstance(a, Const) and isinstance(b, Const):
            return c if a.value else op("not", c)
        return op("where", c, a, b)

    # ---- conditions ---------------------------------------------------------------------------------------

    def _compare(self, name: str, a: Expr, b: Expr) -> Expr:
        d = poly.add(poly.of_expr(b), poly.of_expr(a), -1)  # b - a
        match name:
            case ">" | ">=":
                return self._compare("<" if name == ">" else "<=", b, a)
            case "<":
                return self._at_least_zero(poly.add(d, poly.constant(-1)))
            case "<=":
                return self._at_least_zero(d)
        truth = self._is_zero(d)
        if truth is not None:
            return truth if name == "==" else op("not", truth)
        g = gcd(*d.values())
        d = {m: c // g for m, c in d.items()}
        plus, minus = _sides(d)
        return op(name, min(plus, minus, key=_key), max(plus, minus, key=_key))

    def _is_zero(self, d: Poly) -> Expr | None:
        if not d:
            return TRUE
        g = gcd(*(c for m, c in d.items() if m))
        if g == 0 or d.get((), 0) % g:
            return FALSE
        below = poly.add(poly.scale(d, -1), poly.constant(-1))
        return FALSE if self._nonneg(poly.add(d, poly.constant(-1))) or self._nonneg(below) else None

    def _at_least_zero(self, d: Poly) -> Expr:
        """The condition ``d >= 0``."""
        if self._nonneg(d):
            return TRUE
        if self._nonneg(poly.add(poly.scale(d, -1), poly.constant(-1))):
            return FALSE
        g = gcd(*(c for m, c in d.items() if m))
        if g > 1:
            d = {m: (c if m else c // g * g) // g for m, c in d.items() if m or c // g}
        # readable: c <= x - y + 1 as "y + c - 1 <= x", and a bare +1 becomes a strict comparison
        if d.get((), 0) == -1 and len(d) > 1:
            plus, minus = _sides(poly.add(d, poly.constant(1)))
            return op("<", minus, plus)
        plus, minus = _sides(d)
        return op("<=", minus, plus)

    def _junction(self, name: str, e: Expr) -> Expr:
        terms: list[Expr] = []

        def collect(x: Expr) -> None:
            if isinstance(x, Op) and x.name == name:
                for y in x.args:
                    collect(y)
            else:
                terms.append(x)

        collect(e)
        flat: list[Expr] = []
        for t in terms:
            s = self.simplify(t)
            flat.extend(_flatten(s, name))
        unit, zero = (TRUE, FALSE) if name == "and" else (FALSE, TRUE)
        kept = [t for t in dict.fromkeys(flat) if t != unit]
        if zero in kept or any(op("not", t) in kept for t in kept):
            return zero
        result: Expr = unit
        for t in kept:
            result = op(name, result, t)
        return result

    # ---- proofs ---------------------------------------------------------------------------------------------

    def nonnegative(self, e: Expr) -> bool:
        """Is the integer ``e`` provably never below 0?"""
        return self._nonneg(poly.of_expr(self.simplify(e)))

    def always(self, condition: Expr) -> bool:
        """Does the condition provably hold?"""
        return self.simplify(condition) == TRUE


def _sides(d: Poly) -> tuple[Expr, Expr]:
    """``(plus, minus)`` with ``d = plus - minus`` and no negative coefficient in either."""
    plus = {m: c for m, c in d.items() if c > 0}
    minus = {m: -c for m, c in d.items() if c < 0}
    return poly.to_expr(plus), poly.to_expr(minus)


def _key(e: Expr) -> tuple[bool, int, str]:
    return isinstance(e, Const), -len(str(e)), str(e)


def _negated(name: str, parts: tuple[Expr, ...]) -> Expr:
    return Op("or" if name == "and" else "and", tuple(op("not", p) for p in parts))


def _flatten(e: Expr, name: str) -> list[Expr]:
    if isinstance(e, Op) and e.name == name:
        return [x for a in e.args for x in _flatten(a, name)]
    return [e]


def simplify(e: Expr, ranges: Mapping[str, Range] | None = None, holds: Iterable[Expr] = ()) -> Expr:
    """An equal, simpler expression where each variable is in its inclusive range and ``holds`` are true.

    ``ranges`` maps a name to ``(low, high)``, either None when unknown; bounds may use other names.
    """
    return Facts(ranges, holds).simplify(e)
