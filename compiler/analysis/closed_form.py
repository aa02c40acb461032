"""Closed forms of one-dimensional integer sets: intervals whose ends are expressions of the parameters.

Every statement about expressions (which of two bounds is larger, is this interval ever non-empty) is proved
by isl under a context of known facts, so that ``min(t * 64 + 64, N, N + 32)`` comes out as ``min(t * 64 + 64, N)``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...ir import poly
from ...ir.expr import Const, Expr, Op, Var, all_of, maximum, minimum, op
from .integer_sets import Space, isl

if TYPE_CHECKING:
    from islpy import Set

LARGEST = 8  # convex pieces of a set that are looked at one by one
MOST_ARMS = 3  # values that the end of an interval is a max or min of


@dataclass(frozen=True)
class Interval:
    """``[lo, hi)``, empty when ``hi <= lo``."""

    lo: Expr
    hi: Expr


class Prover:
    """Compares bounds over all parameter values of ``context``, a set that does not constrain the variable."""

    def __init__(self, space: Space, context: Set):
        assert len(space.inner) == 1
        self.space, self.context = space, context
        self._order: dict[tuple[Expr, Expr], bool] = {}

    def never(self, condition: Expr) -> bool:
        return (self.space.upper(condition) & self.context).is_empty()

    def at_most(self, a: Expr, b: Expr) -> bool:
        """Is ``a <= b`` always?"""
        if (a, b) not in self._order:
            self._order[a, b] = a == b or self.never(op(">", a, b))
        return self._order[a, b]

    def largest(self, bounds: Sequence[Expr]) -> Expr:
        return maximum(*self._needed(arms("max", bounds), lambda a, b: self.at_most(b, a)))

    def smallest(self, bounds: Sequence[Expr]) -> Expr:
        return minimum(*self._needed(arms("min", bounds), self.at_most))

    def _needed(self, bounds: Sequence[Expr], covers: Any) -> list[Expr]:
        """The bounds that no other one makes redundant."""
        kept: list[Expr] = []
        for b in dict.fromkeys(bounds):
            if not any(covers(k, b) for k in kept):
                kept = [k for k in kept if not covers(b, k)] + [b]
        return kept

    def is_empty(self, x: Interval) -> bool:
        return self.at_most(x.hi, x.lo)

    def points(self, x: Interval) -> Set:
        """The interval as a set, within the context."""
        j = Var(self.space.inner[0])
        return self.space.upper(op("and", op("<=", x.lo, j), op("<", j, x.hi))) & self.context

    def precedes(self, a: Interval, b: Interval) -> bool:
        """Where ``b`` is not empty: does ``a`` start no later, or end by then if it is empty?"""
        late = op("or", op(">", a.lo, b.lo), op("and", op(">=", a.lo, a.hi), op(">", a.hi, b.lo)))
        return self.never(op("and", op("<", b.lo, b.hi), late))


def intervals(points: Set, prover: Prover, *, cover: bool) -> list[Interval] | None:
    """``points`` as intervals: a cover where ``cover``, else only intervals that lie inside; None: too many pieces."""
    context = prover.context
    pieces = (points & context).coalesce().compute_divs().get_basic_sets()
    if len(pieces) > LARGEST:
        return None
    found = []
    for piece in _joined([isl().Set.from_basic_set(p) for p in pieces], points):
        interval = _Piece(piece, points, prover).interval(cover)
        if interval is None and cover:
            return None
        if interval is not None and not prover.is_empty(interval):
            found.append(interval)
    return found


def _joined(pieces: list[Set], whole: Set) -> list[Set]:
    """Replace two pieces by their convex hull while that adds no point."""
    done = False
    while not done:
        done = True
        for n, a in enumerate(pieces):
            for b in pieces[n + 1 :]:
                hull = isl().Set.from_basic_set((a | b).simple_hull())
                if hull.is_subset(whole):
                    rest = [p for p in pieces if p is not a and p is not b and not p.is_subset(hull)]
                    pieces, done = [hull, *rest], False
                    break
            if not done:
                break
    return pieces


class _Piece:
    """One convex set of the variable, and how it reads as an interval."""

    def __init__(self, points: Set, whole: Set, prover: Prover):
        self.points, self.whole, self.prover = points, whole, prover
        simple = points.gist(prover.context).compute_divs().get_basic_sets()
        self.basic = simple[0] if len(simple) == 1 else None

    def interval(self, cover: bool) -> Interval | None:
        prover = self.prover
        result = self._from_constraints() or self._from_extremes()
        if result is None:
            return None
        if not prover.points(result).is_subset(self.whole):
            guarded = self._guarded(result)
            if guarded is not None and prover.points(guarded).is_subset(self.whole):
                return guarded
            if not cover:
                return None
        return result

    @cached_property
    def _kind(self) -> Any:
        return isl().dim_type

    def _from_constraints(self) -> Interval | None:
        """Bounds read off the constraints on the variable."""
        if self.basic is None:
            return None
        lows: list[Expr] = []
        highs: list[Expr] = []
        for c in self.basic.get_constraints():
            slope = _int(c.get_coefficient_val(self._kind.set, 0))
            rest = self._linear(c.get_aff())
            if rest is None:
                return None
            if slope == 0:
                continue
            if c.is_equality() and abs(slope) > 1:
                return None
            if slope > 0 or c.is_equality():  # slope * j + rest >= 0
                a = rest if slope > 0 else poly.scale(rest, -1)
                lows.append(poly.to_expr(poly.scale(_floordiv(a, abs(slope)), -1)))
            if slope < 0 or c.is_equality():
                a = rest if slope < 0 else poly.scale(rest, -1)
                highs.append(poly.to_expr(poly.add(_floordiv(a, abs(slope)), poly.constant(1))))
        if not lows or not highs:
            return None
        return Interval(self.prover.largest(_ordered(lows)), self.prover.smallest(_ordered(highs)))

    def _from_extremes(self) -> Interval | None:
        """Bounds from the least and greatest element, for sets with strides or rounding in the variable."""
        ends = []
        for end, low in ((self.points.dim_min(0), True), (self.points.dim_max(0), False)):
            values = []
            for _, aff in end.gist(self.prover.context.params()).get_pieces():
                value = self._linear(aff)
                if value is None:
                    return None
                values.append(poly.to_expr(value if low else poly.add(value, poly.constant(1))))
            ends.append(self._end(_ordered(values), low))
        return Interval(*ends)

    def _end(self, values: list[Expr], low: bool) -> Expr:
        """The end that takes one of ``values`` everywhere: mostly a max (or min) of some of them."""
        prover, j = self.prover, Var(self.prover.space.inner[0])
        inward, outward = (prover.largest, prover.smallest) if low else (prover.smallest, prover.largest)
        where = self.points.params()
        for size in range(1, min(len(values), MOST_ARMS) + 1):
            for some in itertools.combinations(values, size):
                end = inward(some)
                beyond = prover.space.upper(op("<", j, end) if low else op(">=", j, end))
                at = prover.space.upper(op("==", j, end if low else end - 1))
                if (self.points & beyond).is_empty() and where.is_subset((self.points & at).params()):
                    return end
        return outward(values)

    def _guarded(self, x: Interval) -> Interval | None:
        """``x`` only where the set has points at all."""
        conditions: list[Expr] = []
        domain = self.points.params().gist(self.prover.context.params()).compute_divs().get_basic_sets()
        if len(domain) != 1:
            return None
        for c in domain[0].get_constraints():
            value = self._linear(c.get_aff())
            if value is None:
                return None
            plus = poly.to_expr({m: k for m, k in value.items() if k > 0})
            minus = poly.to_expr({m: -k for m, k in value.items() if k < 0})
            conditions.append(op("==", plus, minus) if c.is_equality() else op("<=", minus, plus))
        return Interval(x.lo, op("where", all_of(sorted(conditions, key=str)), x.hi, x.lo))

    def _linear(self, aff: Any) -> poly.Poly | None:
        """An affine form without its term in the variable; None if it has rounding of the variable."""
        kind = self._kind
        if _int(aff.get_denominator_val()) != 1:
            return None
        result = poly.constant(_int(aff.get_constant_val()))
        for n, name in enumerate(self.prover.space.params):
            k = _int(aff.get_coefficient_val(kind.param, n))
            result = poly.add(result, {(Var(name),): k} if k else {})
        for n in range(aff.dim(kind.div)):
            k = _int(aff.get_coefficient_val(kind.div, n))
            if k:
                inner = self._rounded(aff.get_div(n))
                if inner is None:
                    return None
                result = poly.add(result, inner, k)
        return result

    def _rounded(self, div: Any) -> poly.Poly | None:
        """``floor`` of a rational affine form without the variable."""
        kind = self._kind
        if div.is_nan() or (div.dim(kind.in_) and not div.get_coefficient_val(kind.in_, 0).is_zero()):
            return None
        by = _int(div.get_denominator_val())
        value = self._linear(div.scale_val(isl().Val.int_from_si(div.get_ctx(), by)))
        return None if value is None else _floordiv(value, by)


def arms(name: str, bounds: Iterable[Expr]) -> list[Expr]:
    """The arguments of nested ``min`` or ``max``, flat."""
    flat: list[Expr] = []
    for b in bounds:
        flat += arms(name, b.args) if isinstance(b, Op) and b.name == name else [b]
    return flat


def _int(value: Any) -> int:
    # Not by way of a string: printing asks isl for operations too, and gives None instead of an error without one left.
    if not value.is_int():
        raise AssertionError(f"{value} is no whole number")
    return value.get_num_si()


def _floordiv(a: poly.Poly, by: int) -> poly.Poly:
    """``a // by`` with what divides taken out and small coefficients: ``95 * x // 96`` is ``x - (x + 95) // 96``."""
    whole: poly.Poly = {}
    rest: poly.Poly = {}
    for m, k in a.items():
        r = (k + (by - 1) // 2) % by - (by - 1) // 2 if m else k % by
        whole = poly.add(whole, {m: (k - r) // by} if k != r else {})
        rest = poly.add(rest, {m: r} if r else {})
    if not any(rest):
        return whole
    if all(k < 0 for m, k in rest.items() if m):
        up = poly.add(poly.scale(rest, -1), poly.constant(by - 1))
        return poly.add(whole, poly.of_expr(op("//", poly.to_expr(up), Const(by))), -1)
    return poly.add(whole, poly.of_expr(op("//", poly.to_expr(rest), Const(by))))


def _ordered(bounds: Sequence[Expr]) -> list[Expr]:
    """A fixed order: constants last, short ones first."""
    return sorted(set(bounds), key=lambda e: (isinstance(e, Const), len(str(e)), str(e)))
