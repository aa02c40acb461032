"""Proofs that an integer expression is never negative.

A polynomial is bounded below by replacing one atom after another by its worst value.  Before that, it is tried at a
few points of the domain: most statements that cannot be proved are false at one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from . import poly
from .expr import Const, Expr, Op, Var, kind_of
from .knowledge import NO_RANGE, Knowledge, Range
from .poly import Poly
from .samples import Samples

_DEPTH = 14  # eliminations in a row; real proofs need three or four
_BUDGET = 400  # steps in one proof; what is not proved by then counts as unknown


class Prover(Knowledge):
    """Knowledge that answers questions.  ``witness`` are sizes for which everything known holds."""

    def __init__(
        self,
        ranges: Mapping[str, Range] | None = None,
        holds: Iterable[Expr] = (),
        witness: Mapping[str, int] | None = None,
    ):
        super().__init__(ranges, holds)
        self._samples = Samples(self.ranges, witness) if witness else None
        self._proved: dict[tuple[frozenset[tuple[poly.Monomial, int]], int], bool] = {}
        self._steps = 0

    def _nonneg(self, p: Poly, depth: int = _DEPTH) -> bool:
        c = poly.constant_value(p)
        if c is not None:
            return c >= 0
        if self._samples is not None and self._samples.refutes(p):
            return False
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
        """Variables that range up to compound atoms among the others, compound atoms, the other variables, sizes."""
        found = poly.atoms(p)
        names = list(self.ranges)
        compound = {a for a in found if not isinstance(a, Var)}

        def rank(a: Expr) -> tuple[int, int]:
            if isinstance(a, Var):
                ends = self.ranges.get(a.name, NO_RANGE) if compound else ()
                if any(e is not None and compound.intersection(poly.atoms(poly.of_expr(e))) for e in ends):
                    return -1, 0
                return 1, -names.index(a.name) if a.name in self.ranges else 1
            return 0, -len(str(a))

        symbolic = {a for a in found if isinstance(a, Var) and self._bounds_use_names(a)}
        return sorted(found, key=lambda a: (rank(a)[0], a not in symbolic, rank(a)[1]))

    def _bounds_use_names(self, a: Var) -> bool:
        return any(b is not None and not isinstance(b, Const) for b in self.ranges.get(a.name, NO_RANGE))

    def _atom_nonneg(self, a: Expr, depth: int) -> bool:
        match a:
            case Var(name):
                low = self.ranges.get(name, NO_RANGE)[0]
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
            return self._nonneg(self.merge(poly.add(poly.multiply(slope, value), scaled)), depth)

        match a:
            case Var(name):
                low, high = self.ranges.get(name, NO_RANGE)
                bound = low if worst_is_low else high
                return None if bound is None else holds(poly.of_expr(bound))
            case Op("//", (x, b)) if self._positive(b, depth):
                end = self._quotient_end(x, b, worst_is_low)
                if end is not None and holds(poly.constant(end)):
                    return True
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

    def _quotient_end(self, x: Expr, b: Expr, low: bool) -> int | None:
        """The least or largest ``x // b`` where that is a number: it is reached, unlike ``x / b``."""
        end = self.ranges.get(x.name, NO_RANGE)[0 if low else 1] if isinstance(x, Var) else None
        return int(end.value) // int(b.value) if isinstance(end, Const) and isinstance(b, Const) else None

    def _within(self, p: Poly, size: Poly) -> bool:
        """Is ``0 <= p < size`` always?"""
        return self._nonneg(p) and self._nonneg(poly.add(poly.add(size, p, -1), poly.constant(-1)))
