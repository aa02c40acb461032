"""What is known about variables: the ranges and conditions behind :mod:`.simplify`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from . import poly
from .expr import Const, Expr, Op, Var, conjuncts, free_vars, kind_of, op, substitute
from .poly import Poly

Range = tuple[Expr | None, Expr | None]
NO_RANGE: Range = (None, None)


class Knowledge:
    """Inclusive ranges of variables, and conditions that hold (``N % 128 == 0``, ``M == N``)."""

    def __init__(self, ranges: Mapping[str, Range] | None = None, holds: Iterable[Expr] = ()):
        self.ranges: dict[str, Range] = dict(ranges or {})
        self.equal: dict[str, Expr] = {}
        self.exact: set[tuple[Expr, Expr]] = set()  # (x, c): c divides x
        for condition in holds:
            for c in conjuncts(condition):
                self._learn(c)

    def _learn(self, condition: Expr) -> None:
        match condition:
            case Op("==", (Op("%", (x, c)), Const(0))):
                self.exact.add((substitute(x, self.equal), c))
            case Op("==", (Var(name), value)) | Op("==", (value, Var(name))) if name not in self.equal:
                value = substitute(value, self.equal)
                if name not in free_vars(value):
                    self.equal = {k: substitute(v, {name: value}) for k, v in self.equal.items()}
                    self.equal[name] = value
                else:
                    self._learn_exact(poly.add(poly.of_expr(value), poly.of_expr(Var(name)), -1))
            case Op(">" | ">=" | "<" | "<=" as name, (a, b)) if "float" not in (kind_of(a), kind_of(b)):
                low, high = (b, a) if name in (">", ">=") else (a, b)
                d = poly.add(poly.of_expr(high), poly.of_expr(low), -1)
                self._learn_nonnegative(d if "=" in name else poly.add(d, poly.constant(-1)))

    def _learn_exact(self, d: Poly) -> None:
        """``c * (x // c) - x == 0`` says that ``c`` divides ``x``."""
        for m, k in d.items():
            match m:
                case (Op("//", (x, Const(c))),) if k == c and d == poly.add({m: k}, poly.of_expr(x), -1):
                    self.exact.add((x, Const(c)))

    def _learn_nonnegative(self, d: Poly) -> None:
        """``N - 5 >= 0`` is a lower bound of ``N``."""
        rest = d.get((), 0)
        match [(m, c) for m, c in d.items() if m]:
            case [((Var(name),), 1)]:
                self._raise_low(name, -rest)

    def _raise_low(self, name: str, low: int) -> None:
        old, high = self.ranges.get(name, NO_RANGE)
        if not isinstance(old, Const) or old.value < low:
            self.ranges[name] = (Const(low), high)

    def merge(self, p: Poly) -> Poly:
        """Turn ``c * (x // c) + x % c`` into ``x``, and ``c * (x // c)`` too where ``c`` divides ``x``."""
        for m in list(p):
            for n, a in enumerate(m):
                match a:
                    case Op("%", (x, c)):
                        outer = {m[:n] + m[n + 1 :]: p[m]} if m in p else {}
                        whole = poly.multiply(poly.multiply(outer, poly.of_expr(c)), poly.of_expr(op("//", x, c)))
                        if outer and whole and all(p.get(k) == v for k, v in whole.items()):
                            rest = poly.add(poly.add(p, {m: p[m]}, -1), whole, -1)
                            return self.merge(poly.add(rest, poly.multiply(outer, poly.of_expr(x))))
                    case Op("//", (x, c)) if (x, c) in self.exact and m in p:
                        by = poly.of_expr(c)
                        quotient, rest = poly.divide({m[:n] + m[n + 1 :]: p[m]}, by)
                        if quotient and not rest:
                            p = poly.add(poly.add(p, {m: p[m]}, -1), poly.multiply(quotient, poly.of_expr(x)))
                            return self.merge(p)
        return p
