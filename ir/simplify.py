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
from .expr import FALSE, TRUE, Const, Expr, Load, Op, Var, conjuncts, free_vars, kind_of, op, substitute
from .poly import Poly

Range = tuple[Expr | None, Expr | None]
_NO_RANGE: Range = (None, None)
_COMPARE = ("<", "<=", ">", ">=", "==", "!=")
_DEPTH = 14  # eliminations in a row; real proofs need three or four
_BUDGET = 400  # steps in one proof; what is not proved by then counts as unknown


class Facts:
    """What is known about variables: inclusive ranges, and conditions that hold (``N % 128 == 0``, ``M == N``)."""

    def __init__(self, ranges: Mapping[str, Range] | None = None, holds: Iterable[Expr] = ()):
        self.ranges: dict[str, Range] = dict(ranges or {})
        self.equal: dict[str, Expr] = {}
        self.exact: set[tuple[Expr, Expr]] = set()  # (x, c): c divides x
        self._memo: dict[Expr, Expr] = {}
        self._proved: dict[tuple[frozenset[tuple[poly.Monomial, int]], int], bool] = {}
        self._steps = 0
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
        old, high = self.ranges.get(name, _NO_RANGE)
        if not isinstance(old, Const) or old.value < low:
            self.ranges[name] = (Const(low), high)

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
                return poly.to_expr(self._merge(poly.of_expr(e)))
            case "//":
                return self._floordiv(*args)
            case "%":
                return self._mod(*args)
            case "min" | "max":
                return self._extreme(name, *args)
            case "abs":
                return self._abs(args[0])
        return e

    def _merge(self, p: Poly) -> Poly:
        """Turn ``c * (x // c) + x % c`` into ``x``, and ``c * (x // c)`` too where ``c`` divides ``x``."""
        for m in list(p):
            for n, a in enumerate(m):
                match a:
                    case Op("%", (x, c)):
                        outer = {m[:n] + m[n + 1 :]: p[m]} if m in p else {}
                        whole = poly.multiply(poly.multiply(outer, poly.of_expr(c)), poly.of_expr(op("//", x, c)))
                        if outer and whole and all(p.get(k) == v for k, v in whole.items()):
                            rest = poly.add(poly.add(p, {m: p[m]}, -1), whole, -1)
                            return self._merge(poly.add(rest, poly.multiply(outer, poly.of_expr(x))))
                    case Op("//", (x, c)) if (x, c) in self.exact and m in p:
                        by = poly.of_expr(c)
                        quotient, rest = poly.divide({m[:n] + m[n + 1 :]: p[m]}, by)
                        if quotient and not rest:
                            p = poly.add(poly.add(p, {m: p[m]}, -1), poly.multiply(quotient, poly.of_expr(x)))
                            return self._merge(p)
        return p

    def _floordiv(self, a: Expr, b: Expr) -> Expr:
        pa, pb = poly.of_expr(a), poly.of_expr(b)
        if not pb:
            return op("//", a, b)
        quotient, rest = self._divide(pa, pb)
        if self._within(rest, pb):
            return poly.to_expr(self._merge(quotient))
        c = poly.constant_value(pb)
        if c is not None and c > 0:
            # a common factor of the divisor and all but a small remainder
            g = gcd(c, *(k for m, k in rest.items() if m))
            if g > 1:
                small = rest.get((), 0) % g
                reduced = {m: k // g for m, k in poly.add(rest, poly.constant(small), -1).items()}
                inner = self._floordiv(poly.to_expr(reduced), Const(c // g))
                return poly.to_expr(self._merge(poly.add(quotient, poly.of_expr(inner))))
            for g in sorted({gcd(c, k) for m, k in rest.items() if m} - {1, c}, reverse=True):
                multiple = {m: k for m, k in rest.items() if k % g == 0}
                if self._within(poly.add(rest, multiple, -1), poly.constant(g)):
                    inner = self._floordiv(poly.to_expr({m: k // g for m, k in multiple.items()}), Const(c // g))
                    return poly.to_expr(self._merge(poly.add(quotient, poly.of_expr(inner))))
        match poly.to_expr(rest):
            case Op("//", (x, d)) if c is not None and c > 0 and isinstance(d, Const) and d.value > 0:
                inner = self._floordiv(x, d * b)
            case r:
                inner = op("//", r, b)
        return poly.to_expr(self._merge(poly.add(quotient, poly.of_expr(inner))))

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
            return poly.to_expr(self._merge(rest))
        c = poly.constant_value(pb)
        if c is not None and c > 0:
            for g in sorted({gcd(c, k) for m, k in rest.items() if m} - {1}, reverse=True):
                multiple = {m: k for m, k in rest.items() if k % g == 0}
                small = poly.add(rest, multiple, -1)
                if self._within(small, poly.constant(g)):
                    inner = self._mod(poly.to_expr({m: k // g for m, k in multiple.items()}), Const(c // g))
                    return poly.to_expr(poly.add(small, poly.of_expr(inner), g))
        return op("%", poly.to_expr(self._merge(rest)), b)

    def _within(self, p: Poly, size: Poly) -> bool:
        """Is ``0 <= p < size`` always?"""
        return self._nonneg(p) and self._nonneg(poly.add(poly.add(size, p, -1), poly.constant(-1)))

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

    def _nonneg(self, p: Poly, depth: int = _DEPTH) -> bool:
        c = poly.constant_value(p)
        if c is not None:
            return c >= 0
        if depth == _DEPTH:
            self._steps = 0
        self._steps += 1
        if self._steps > _BUDGET:
            return False
        key = frozenset(p.items()), depth
        known = self._proved.get(key)
        if known is None:
            known = self._prove(p, depth)
            if self._steps <= _BUDGET:
                self._proved[key] = known
        return known

    def _prove(self, p: Poly, depth: int) -> bool:
        if all(k >= 0 for k in p.values()) and all(self._atom_nonneg(a, depth) for a in poly.atoms(p)):
            return True
        if depth <= 0:
            return False
        if p.get((), 0) < 0 and all(k < 0 for k in p.values()):
            if all(self._atom_nonneg(a, depth) for a in poly.atoms(p)):
                return False
        for a in self._elimination_order(p):
            split = poly.split_linear(p, a)
            if split is not None:
                verdict = self._eliminate(a, *split, depth - 1)
                if verdict is not None:
                    return verdict
        return False

    def _elimination_order(self, p: Poly) -> list[Expr]:
        """Compound atoms first, then variables whose range speaks of others, then sizes."""
        found = poly.atoms(p)
        names = list(self.ranges)

        def rank(a: Expr) -> tuple[int, int]:
            if isinstance(a, Var):
                return 1, -names.index(a.name) if a.name in self.ranges else 1
            return 0, -len(str(a))

        symbolic = {a for a in found if isinstance(a, Var) and self._bounds_use_names(a)}
        return sorted(found, key=lambda a: (rank(a)[0], a not in symbolic, rank(a)[1]))

    def _bounds_use_names(self, a: Var) -> bool:
        return any(b is not None and not isinstance(b, Const) for b in self.ranges.get(a.name, _NO_RANGE))

    def _atom_nonneg(self, a: Expr, depth: int) -> bool:
        match a:
            case Var(name):
                low = self.ranges.get(name, _NO_RANGE)[0]
                return low is not None and depth > 0 and self._nonneg(poly.of_expr(low), depth - 1)
            case Op("%", (_, b)):
                return self._positive(b, depth)
            case Op("//", (x, b)):
                return depth > 0 and self._nonneg(poly.of_expr(x), depth - 1) and self._positive(b, depth)
            case Op("abs", _):
                return True
            case Op("min", (x, y)):
                return depth > 0 and all(self._nonneg(poly.of_expr(z), depth - 1) for z in (x, y))
            case Op("max", (x, y)):
                return depth > 0 and any(self._nonneg(poly.of_expr(z), depth - 1) for z in (x, y))
            case Op("where", (_, x, y)):
                return depth > 0 and all(self._nonneg(poly.of_expr(z), depth - 1) for z in (x, y))
            case Op("int", (x,)):
                return kind_of(x) == "bool"
        return False

    def _positive(self, b: Expr, depth: int) -> bool:
        return depth > 0 and self._nonneg(poly.add(poly.of_expr(b), poly.constant(-1)), depth - 1)

    def _eliminate(self, a: Expr, slope: Poly, rest: Poly, depth: int) -> bool | None:
        """Is ``slope * a + rest >= 0`` after replacing ``a`` by its worst value?  None: nothing known about ``a``."""
        if self._nonneg(slope, depth - 1):
            worst_is_low = True
        elif self._nonneg(poly.scale(slope, -1), depth - 1):
            worst_is_low = False
        else:
            return None

        def holds(value: Poly, factor: Poly | None = None) -> bool:
            scaled = rest if factor is None else poly.multiply(rest, factor)
            return self._nonneg(self._merge(poly.add(poly.multiply(slope, value), scaled)), depth)

        match a:
            case Var(name):
                low, high = self.ranges.get(name, _NO_RANGE)
                bound = low if worst_is_low else high
                return None if bound is None else holds(poly.of_expr(bound))
            case Op("//", (x, b)) if self._positive(b, depth):
                # b * (x // b) lies in [x - b + 1, x]
                px, pb = poly.of_expr(x), poly.of_expr(b)
                if (x, b) in self.exact or not worst_is_low:
                    return holds(px, pb)
                if holds(poly.add(poly.add(px, pb, -1), poly.constant(1)), pb):
                    return True
                return self._atom_nonneg(a, depth) and holds({})
            case Op("%", (x, b)) if self._positive(b, depth):
                if worst_is_low:
                    return holds({})
                if holds(poly.add(poly.of_expr(b), poly.constant(-1))):
                    return True
                return self._nonneg(poly.of_expr(x), depth - 1) and holds(poly.of_expr(x))
            case Op("min" | "max" as name, (x, y)):
                every = all if (name == "min") == worst_is_low else any
                return every(holds(poly.of_expr(z)) for z in (x, y))
            case Op("where", (_, x, y)):
                return all(holds(poly.of_expr(z)) for z in (x, y))
            case Op("abs", (x,)):
                if worst_is_low:
                    px = poly.of_expr(x)
                    return holds({}) or holds(px) or holds(poly.scale(px, -1))
                return all(holds(poly.scale(poly.of_expr(x), s)) for s in (1, -1))
            case Op("int", (x,)) if kind_of(x) == "bool":
                return holds({} if worst_is_low else poly.constant(1))
        return None


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
