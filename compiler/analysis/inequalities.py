"""A conjunction of conditions as linear inequalities over atoms such as ``i``, ``j // 6`` and ``j % 6``.

An inequality is a polynomial that is not negative where the conditions hold.  Two of them may say more together than
apart: ``i // 6 - j // 6 <= 1`` and ``i % 6 - j % 6 <= 1`` imply ``i - j <= 7``, six times the first plus the second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ...ir import poly
from ...ir.expr import COMPARISONS, TRUE, Const, Expr, Op, conjuncts, free_vars, kind_of, loads, op
from ...ir.poly import Poly
from .numeric import integer_bound

MOST_COMBINED = 24  # inequalities that are looked at for combinations


@dataclass
class Conjunction:
    """What a condition says: inequalities, alternatives, and conditions that are neither.

    ``settled`` says that an integer set would hardly know more than the inequalities; ``complete`` that these and the
    alternatives say everything.
    """

    row: str
    key: str
    inequalities: list[Poly] = field(default_factory=list)
    alternatives: list[tuple[Expr, ...]] = field(default_factory=list)
    settled: bool = True
    complete: bool = True

    def add(self, condition: Expr) -> None:
        for c in conjuncts(condition):
            self._add(c)

    def _add(self, e: Expr) -> None:
        match e:
            case Const(value) if value:
                pass
            case Op("not", (Op("and" | "or" as name, parts),)):
                self._add_all(op("or" if name == "and" else "and", *(op("not", p) for p in parts)))
            case Op("not", (Op(name, (a, b)),)) if name in COMPARISONS:
                self._add(op(COMPARISONS[name], a, b))
            case Op("or", arms):
                self._choose(arms)
            case Op("where", (c, a, b)):
                self._choose((op("and", c, a), op("and", op("not", c), b)))
            case Op(name, (a, b)) if name in COMPARISONS and kind_of(a) != "bool":
                self._compare(name, _integer(a), _integer(b), e)
            case _:
                self._unknown(e)

    def _add_all(self, e: Expr) -> None:
        for c in conjuncts(e):
            self._add(c)

    def _choose(self, arms: tuple[Expr, ...]) -> None:
        self.alternatives.append(arms)

    def _unknown(self, e: Expr) -> None:
        self.complete = False
        self.settled &= bool(loads(e))

    def _compare(self, name: str, a: Expr, b: Expr, e: Expr) -> None:
        if isinstance(a, Const) and kind_of(a) == "float":
            a, b, name = b, a, {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(name, name)
        if isinstance(b, Const) and kind_of(b) == "float":
            b = integer_bound(name, b.value) or b
        if kind_of(a) != "int" or kind_of(b) != "int" or name == "!=":
            self._unknown(e)
            return
        d = poly.add(poly.of_expr(b), poly.of_expr(a), -1)
        match name:
            case "<" | "<=":
                self._at_least_0(poly.add(d, poly.constant(-1)) if name == "<" else d)
            case ">" | ">=":
                d = poly.scale(d, -1)
                self._at_least_0(poly.add(d, poly.constant(-1)) if name == ">" else d)
            case "==":
                self._at_least_0(d)
                self._at_least_0(poly.scale(d, -1))

    def _at_least_0(self, p: Poly) -> None:
        """Take in ``p >= 0``, split until rows and keys are apart in every atom."""
        for m, k in p.items():
            used = set().union(*(free_vars(a) for a in m))
            if self.key not in used or (len(m) == 1 and self._apart(m[0])):
                continue
            if len(m) != 1 or loads(m[0]):
                self.complete = False  # a product: no integer set either
                return
            rest = {n: c for n, c in p.items() if n != m}

            def with_(x: Expr, factor: int = 1, rest: Poly = rest, k: int = k) -> Poly:
                return poly.add(rest, poly.of_expr(x), k * factor)

            match m[0]:
                case Op("abs", (x,)) if k < 0:
                    self._both(with_(x), with_(x, -1))
                    return
                case Op("max", (x, y)) if k < 0:
                    self._both(with_(x), with_(y))
                    return
                case Op("min", (x, y)) if k > 0:
                    self._both(with_(x), with_(y))
                    return
                case Op("abs", (x,)):
                    self._either(with_(x), with_(x, -1))
                    return
                case Op("max" | "min", (x, y)):
                    self._either(with_(x), with_(y))
                    return
                case Op("//", (x, Const(int() as by))) if by > 0 and not self._uses_pair(rest):
                    bound = _floordiv(rest, abs(k))
                    if k < 0:
                        over = poly.add(poly.scale(bound, by), poly.constant(by - 1))
                        self._at_least_0(poly.add(over, poly.of_expr(x), -1))
                        return
                    self._at_least_0(poly.add(poly.scale(bound, by), poly.of_expr(x)))
                    return
                case Op("%", _):
                    self.complete = False  # periodic along the keys: hardly a range
                    return
            self._unknown(m[0])
            return
        self.inequalities.append(p)

    def _apart(self, atom: Expr) -> bool:
        """Is the atom free of rows, and rounding of the key only?"""
        if self.row in free_vars(atom):
            return False
        return not isinstance(atom, Op) or atom.name in ("//", "%")

    def _uses_pair(self, p: Poly) -> bool:
        return any(free_vars(a) & {self.row, self.key} for a in poly.atoms(p))

    def _both(self, p: Poly, q: Poly) -> None:
        self._at_least_0(p)
        self._at_least_0(q)

    def _either(self, p: Poly, q: Poly) -> None:
        self._choose(tuple(op(">=", poly.to_expr(x), 0) for x in (p, q)))


def read(condition: Expr, row: str, key: str) -> Conjunction:
    """The condition as inequalities, as far as it is some."""
    result = Conjunction(row, key)
    if condition != TRUE:
        result.add(condition)
    return result


def combined(found: Iterable[Poly]) -> list[Poly]:
    """The inequalities with those that follow from a pair of them by joining ``x // c`` and ``x % c``."""
    known = [_whole(p) for p in found]
    for p in known:
        if len(known) > MOST_COMBINED:
            break
        for q in list(known):
            joined = _joined(p, q) or _joined(q, p)
            if joined is not None and joined not in known:
                known.append(joined)
    return known


def _joined(p: Poly, q: Poly) -> Poly | None:
    """A positive combination of ``p``, with ``x // c``, and ``q``, with ``x % c``, that has ``x`` in their place."""
    for (by_whole, a), (by_rest, b) in ((x, y) for x in p.items() for y in q.items()):
        if len(by_whole) != 1 or len(by_rest) != 1 or (a > 0) != (b > 0):
            continue
        match by_whole[0], by_rest[0]:
            case Op("//", (x, Const(int() as c))), Op("%", (y, Const(int() as d))) if _same(x, c, y, d):
                g = math.gcd(a, b * d)
                both = poly.add(poly.scale(p, abs(b) * d // g), poly.scale(q, abs(a) // g))
                result = _tight(_whole(both))
                if not any(isinstance(z, Op) and z.name == "%" for z in poly.atoms(result)):
                    return result
    return None


def _same(x: Expr, c: int, y: Expr, d: int) -> bool:
    """Is ``x // c`` the same as ``y // d``?"""
    return (x, c) == (y, d) or (d > 0 and c % d == 0 and y == op("//", x, c // d))


def _whole(p: Poly) -> Poly:
    """``c * (x // c) + x % c`` as ``x``, and ``x - x % c`` as ``c * (x // c)``."""
    for m, k in list(p.items()):
        match m:
            case (Op("%", (x, Const(int() as c))),) if c > 0 and m in p:
                for n, a in p.items():
                    match n:
                        case (Op("//", (y, Const(int() as w))),) if a == k * c and _same(y, w, x, c):
                            rest = poly.add(poly.add(p, {m: k}, -1), {n: a}, -1)
                            return _whole(poly.add(rest, poly.of_expr(x), k))
                inner = poly.of_expr(x)
                if all(p.get(n) == -k * a for n, a in inner.items() if n):
                    rest = poly.add(poly.add(p, {m: k}, -1), inner, k)
                    return _whole(poly.add(rest, {(op("//", x, c),): -k * c}))
    return p


def _tight(p: Poly) -> Poly:
    g = math.gcd(*(k for m, k in p.items() if m))
    return {m: k // g for m, k in p.items() if k // g} if g > 1 else p


def _floordiv(p: Poly, by: int) -> Poly:
    return p if by == 1 else poly.of_expr(op("//", poly.to_expr(p), by))


def _integer(e: Expr) -> Expr:
    return e.args[0] if isinstance(e, Op) and e.name == "float" and kind_of(e.args[0]) == "int" else e
