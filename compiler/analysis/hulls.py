"""The keys of a tile from bounds on one condition at a time: instant, for conjunctions of any length.

Each inequality of the mask, such as ``i // 6 - j // 6 <= 1``, is solved for the key with the row at its extreme in the
tile: the touched keys lie in the intersection of these intervals, and where every inequality holds for the worst
row the keys are full.  The touched interval may be wider than the touched keys (what only two conditions together
exclude is kept), the full one never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from ...ir import poly
from ...ir.expr import (
    TRUE,
    ZERO,
    Const,
    Expr,
    Op,
    Var,
    all_of,
    free_vars,
    kind_of,
    loads,
    maximum,
    minimum,
    op,
    substitute,
)
from ...ir.poly import Poly
from ...ir.simplify import Facts, simplify
from ...ir.simplify import Range as Bounds
from ...ir.tile import Range
from .bounds import interval
from .inequalities import Conjunction, combined, read
from .tiles import KeyRanges, Tile, Wanted

MOST_ARMS = 6  # alternatives of a mask that are looked at one by one
_MORE = "_more"  # live rows of the tile after its first
_END = "_end"  # end of the tile's live rows


@dataclass
class Ends:
    """An interval as the arms of a max and of a min; its end is exclusive."""

    lows: list[Expr] = field(default_factory=list)
    highs: list[Expr] = field(default_factory=list)

    def meet(self, other: Ends) -> None:
        self.lows += other.lows
        self.highs += other.highs


def interval_ranges(tile: Tile, wanted: Wanted) -> tuple[KeyRanges, bool]:
    """Ranges that cover the touched keys, at most one full; and whether integer sets would hardly do better."""
    solver = _Solver(tile)
    touched, settled = solver.touched()
    return solver.ranges(touched, solver.full(), wanted), settled


def plain_ranges(tile: Tile) -> KeyRanges | None:
    """The same, to be evaluated and not to be read: nothing is proved or put in order, which takes most of the time.

    None where integer sets might do better.
    """
    solver = _Solver(tile)
    touched, settled = solver.touched()
    return solver.plain(touched, solver.full()) if settled else None


def arms_of(tile: Tile, last: str) -> list[tuple[Ends, Ends | None]] | None:
    """Touched and full keys of each alternative of the mask, in terms of ``last``, the end of the tile's live rows.

    None when there are too many alternatives, or one that bounds on single conditions do not settle.
    """
    found: list[tuple[Ends, Ends | None]] = []
    more = {_MORE: Var(last) - 1 - tile.rows.base}
    alternatives = _disjuncts(tile.mask)
    if len(alternatives) > MOST_ARMS:
        return None
    for arm in alternatives:
        solver = _Solver(replace(tile, mask=arm))
        touched, settled = solver.touched()
        if not settled:
            return None
        full = solver.full()
        for x in (touched, full):
            if x is not None:
                x.lows = [simplify(substitute(e, more)) for e in _arms("max", solver.largest(x.lows))]
                x.highs = [simplify(substitute(e, more)) for e in _arms("min", solver.smallest(x.highs))]
        found.append((touched, full))
    return found


def _disjuncts(e: Expr) -> list[Expr]:
    """The condition as alternatives, each without any."""
    match e:
        case Op("or", arms):
            return [d for a in arms for d in _disjuncts(a)]
        case Op("and", (a, b)):
            return [op("and", x, y) for x in _disjuncts(a) for y in _disjuncts(b)]
        case Op("where", (c, a, b)):
            return _disjuncts(op("or", op("and", c, a), op("and", op("not", c), b)))
        case Op("<" | "<=" as name, (c, Op("abs", (x,)))) | Op(">" | ">=" as name, (Op("abs", (x,)), c)):
            strict = ">" if len(name) == 1 else ">="
            return [op(strict, x, c), op(strict, 0 - x, c)]
    return [e]


class _Solver:
    """One tile: its facts, and the mask solved for the key."""

    def __init__(self, tile: Tile):
        self.tile = tile
        rows = tile.rows
        self.rows = rows.base, rows.base + Var(_MORE)
        exprs = (rows.base, rows.bound, tile.key.extent, tile.mask, *(d.extent for d in tile.batch))
        names = set().union(*(free_vars(e) for e in exprs)) - {rows.name, tile.key.name}
        ranges: dict[str, Bounds] = dict.fromkeys(sorted(names), (ZERO, None))
        ranges |= {d.name: (ZERO, d.extent - 1) for d in tile.batch}
        match poly.of_expr(rows.base):
            case {**terms} if len(terms) == 1 and len(next(iter(terms))) == 1:
                ((((first,), step)),) = terms.items()
                if isinstance(first, Var) and step > 0:
                    ranges[first.name] = ZERO, (rows.bound - 1) // step  # the tile has rows
        ranges[_MORE] = ZERO, minimum(rows.size - 1, rows.bound - rows.base - 1)
        self.facts = Facts(ranges, (*tile.facts, op("<", rows.base, rows.bound)))
        self.mask = read(tile.mask, rows.name, tile.key.name)

    # ---- solving ---------------------------------------------------------------------------------------------

    def touched(self) -> tuple[Ends, bool]:
        ends, settled = self._touched(self.tile.mask)
        ends.meet(Ends([ZERO], [self.tile.key.extent]))
        return ends, settled

    def _touched(self, mask: Expr) -> tuple[Ends, bool]:
        found = read(mask, self.tile.rows.name, self.tile.key.name)
        result, settled = Ends(), found.settled
        names = self.tile.rows.name, self.tile.key.name
        kinds = set()
        for p in combined(found.inequalities):
            ends = self._solve(p, every=False)
            used = set().union(*(free_vars(a) for a in poly.atoms(p)))
            kinds.add(tuple(n in used for n in names))
            if ends is None:
                settled &= any(loads(a) for a in poly.atoms(p))
            else:
                result.meet(ends)
        if (True, False) in kinds and (True, True) in kinds:
            settled = False  # rows that a condition leaves out are a matter for sets
        for arms in found.alternatives:
            result.meet(self._hull([self._touched(a)[0] for a in arms]))
            settled &= self._is_threshold(arms)
        return result, settled

    def _is_threshold(self, arms: Sequence[Expr]) -> bool:
        """Is it one inequality, but for the rows beyond some end?  Then the hull is exact: a clamped window's."""
        keyed = [a for a in arms if self.tile.key.name in free_vars(a)]
        parts = [read(a, self.tile.rows.name, self.tile.key.name) for a in arms]
        return len(keyed) <= 1 and all(x.settled and len(x.inequalities) <= 2 and not x.alternatives for x in parts)

    def _hull(self, arms: Sequence[Ends]) -> Ends:
        lows = [self.largest(low) for a in arms if (low := a.lows or self._absent(a))]
        highs = [self.smallest(a.highs) for a in arms if a.highs]
        return Ends(
            [self.smallest(lows)] if len(lows) == len(arms) else [],
            [self.largest(highs)] if len(highs) == len(arms) else [],
        )

    def _absent(self, x: Ends) -> list[Expr]:
        """The start of all keys or, where their end says that there are none, of an interval behind them."""
        size = self.tile.key.extent
        conditions = [
            e.args[0] for e in x.highs if isinstance(e, Op) and e.name == "where" and e.args[1:] == (size, ZERO)
        ]
        return [op("where", all_of(conditions), ZERO, size)] if conditions else []

    def full(self) -> Ends | None:
        ends = self._full(self.mask)
        if ends is not None:
            ends.meet(Ends([ZERO], [self.tile.key.extent]))
        return ends

    def _full(self, found: Conjunction) -> Ends | None:
        """Keys that satisfy the condition in every row; None where no rule finds any."""
        result = Ends()
        solved = [self._solve(p, every=True) for p in found.inequalities] if found.complete else [None]
        for ends in (*solved, *(self._full_of_some(arms) for arms in found.alternatives)):
            if ends is None:
                return None
            result.meet(ends)
        return result

    def _full_of_some(self, arms: Sequence[Expr]) -> Ends | None:
        """Keys of one alternative; all of them where an alternative holds that does not depend on the key."""
        names = self.tile.rows.name, self.tile.key.name
        free = [a for a in arms if names[1] not in free_vars(a)]
        keyed = [self._full(read(a, *names)) for a in arms if a not in free]
        main = next((x for x in keyed if x is not None), None)
        held = [x for a in free if (x := self._full(read(a, *names))) is not None and not x.lows]
        size = self.tile.key.extent
        if main is None:
            main = Ends([size], [ZERO])
        for x in held:
            present = self._absent(x)
            if x.highs and not present:
                continue
            start = self.largest(present) if present else ZERO
            low, high = self.largest(main.lows or [ZERO]), self.smallest(main.highs or [size])
            holds = start.args[0] if isinstance(start, Op) else TRUE
            main = Ends([op("where", holds, ZERO, low)], [op("where", holds, size, high)])
        return main

    def _solve(self, p: Poly, every: bool) -> Ends | None:
        """Keys for which ``p >= 0`` holds in some row of the tile, or in every row; None: no rule."""
        key, row = self.tile.key.name, self.tile.rows.name
        main: list[tuple[Expr, int]] = []
        rest: Poly = {}
        for m, k in p.items():
            used = set().union(*(free_vars(a) for a in m))
            if any(loads(a) for a in m) or (key in used and len(m) > 1):
                return None
            match m:
                case (Op("%", (_, Const(int() as c))),) if key in used and c > 0:
                    # the best remainder, or the worst
                    rest = poly.add(rest, poly.constant(k * (c - 1) if (k > 0) is not every else 0))
                case _ if key in used:
                    main.append((m[0], k))
                case _ if row in used:
                    bounds = interval(poly.to_expr({m: k}), row, self.rows)
                    if bounds is None:
                        return None
                    rest = poly.add(rest, poly.of_expr(bounds[0] if every else bounds[1]))
                case _:
                    rest = poly.add(rest, {m: k})
        if not main:
            holds = op(">=", self.facts.simplify(poly.to_expr(rest)), 0)
            return Ends() if holds == TRUE else Ends([], [op("where", holds, self.tile.key.extent, ZERO)])
        if len(main) > 1:
            return None
        (atom, k) = main[0]
        return self._bound({(atom,): k}, poly.scale(rest, -1))

    def _bound(self, f: Poly, least: Poly) -> Ends | None:
        """Keys for which ``f``, a multiple of an atom plus a term without the key, is at least ``least``."""
        key = self.tile.key.name
        with_key = [(m, k) for m, k in f.items() if any(key in free_vars(a) for a in m)]
        if len(with_key) != 1 or len(with_key[0][0]) != 1:
            return None
        (((atom,), k),) = with_key
        least = poly.add(least, {m: c for m, c in f.items() if m != (atom,)}, -1)
        # atom >= ceil(least / k), or atom <= floor(-least / -k)
        value = _floordiv(poly.scale(least, -1), abs(k))
        if k > 0:
            value = poly.scale(value, -1)
        match atom:
            case Var():
                end = self.facts.simplify(poly.to_expr(value if k > 0 else poly.add(value, poly.constant(1))))
                return Ends([end]) if k > 0 else Ends([], [end])
            case Op("//", (x, Const(int() as by))) if by > 0 and kind_of(x) == "int":
                inner = poly.of_expr(x)
                if k > 0:
                    return self._bound(inner, poly.scale(value, by))
                most = poly.add(poly.scale(value, by), poly.constant(by - 1))
                return self._bound(poly.scale(inner, -1), poly.scale(most, -1))
        return None

    # ---- proofs ----------------------------------------------------------------------------------------------

    def at_most(self, a: Expr, b: Expr) -> bool:
        return a == b or self.facts.nonnegative(b - a)

    def largest(self, bounds: Iterable[Expr]) -> Expr:
        return maximum(*_needed(_ordered(bounds), lambda a, b: self.at_most(b, a)))

    def smallest(self, bounds: Iterable[Expr]) -> Expr:
        return minimum(*_needed(_ordered(bounds), self.at_most))

    def _is_empty(self, x: Ends) -> bool:
        return any(self.at_most(b, a) for a in x.lows for b in x.highs)

    # ---- the answer ------------------------------------------------------------------------------------------

    def ranges(self, touched: Ends, full: Ends | None, wanted: Wanted) -> KeyRanges:
        if self._is_empty(touched):
            return KeyRanges((), ())
        lo, hi = self.largest(touched.lows), self.smallest(touched.highs)
        if full is not None and (self.largest(full.lows), self.smallest(full.highs)) == (lo, hi):
            return KeyRanges((self._range(Ends(_arms("max", lo), _arms("min", hi))),), ())
        full = None if full is None else self._worthwhile(full, wanted)
        if full is None:
            return KeyRanges((), (self._range(Ends(_arms("max", lo), _arms("min", hi))),))
        first, last = self.largest(full.lows), self.smallest(full.highs)
        proper = all(self.at_most(x, y) for x in full.lows for y in full.highs)
        end = last if proper else self.largest([last, first])
        partial = []
        for lows, highs in (([lo], [*_arms("min", hi), first]), ([*_arms("max", lo), end], [hi])):
            rest = Ends(
                _arms("max", self.largest(lows)),
                _arms("min", self.smallest(highs)),
            )
            if not self._is_empty(rest):
                partial.append(self._range(rest))
        return KeyRanges((self._range(Ends(_arms("max", first), _arms("min", last))),), tuple(partial))

    def plain(self, touched: Ends, full: Ends | None) -> KeyRanges:
        """As :meth:`ranges`, with every bound as it was found."""
        more = {_MORE: self.tile.end - 1 - self.tile.rows.base}

        def ends(x: Ends) -> tuple[Expr, Expr]:
            return maximum(*(substitute(e, more) for e in x.lows)), minimum(*(substitute(e, more) for e in x.highs))

        lo, hi = ends(touched)
        full = None if full is None else self._worthwhile(full, Wanted())
        if full is None:
            return KeyRanges((), (Range(lo, hi),))
        first, last = ends(full)
        partial = Range(lo, minimum(hi, first)), Range(maximum(lo, first, last), hi)
        return KeyRanges((Range(first, last),), partial)

    def _worthwhile(self, full: Ends, wanted: Wanted) -> Ends | None:
        """Full keys in whole tiles, moved to multiples of the step; None when they are always too few."""
        size = self.tile.rows.size
        if wanted.align > 1:
            full = Ends(
                [self._aligned(e, wanted.align, True) for e in full.lows],
                [self._aligned(e, wanted.align, False) for e in full.highs],
            )
        bound = self.tile.rows.bound
        most = {_MORE: Const(min(size, bound.value) - 1 if isinstance(bound, Const) else size - 1)}
        never = Const(wanted.width - 1)
        for a in full.lows:
            for b in full.highs:
                a, b = (self.facts.simplify(substitute(x, most)) for x in (a, b))
                if self.at_most(b - a, never):
                    return None
        return full

    def _aligned(self, arm: Expr, align: int, up: bool) -> Expr:
        """The end of an interval moved inwards to a multiple of ``align``, taking the tile to be whole."""
        match arm:
            case Op("where", (c, a, b)):
                return op("where", c, self._aligned(a, align, up), self._aligned(b, align, up))
        terms = poly.of_expr(self.facts.simplify(substitute(arm, {_MORE: self.tile.rows.size - 1})))
        if all(k % align == 0 for m, k in terms.items() if m) and len(terms) > 1:
            off = terms.get((), 0) % align
            return poly.to_expr(poly.add(terms, poly.constant(-off % align if up else -off)))
        return arm

    def _range(self, x: Ends) -> Range:
        """The interval without names of our own."""
        rows = self.tile.rows
        ends = rows.base + rows.size, rows.bound
        more = Var(_END) - 1 - rows.base

        def show(arm: Expr, end: Expr) -> Expr:
            inner = self.facts.simplify(substitute(arm, {_MORE: more}))
            return self.facts.simplify(substitute(inner, {_END: end}))

        end = minimum(*_needed(ends, self.at_most))
        highs = [show(a, end) for a in x.highs]
        spread = [show(a, e) for a in x.highs for e in (_arms("min", end) if _increasing(a) else [end])]
        plain, short = self.smallest(highs), self.smallest(spread)
        if len(_arms("min", short)) <= len(_arms("min", plain)):
            plain = short
        return Range(self.largest([show(a, end) for a in x.lows]), plain)


def _increasing(e: Expr) -> bool:
    """Is ``e`` non-decreasing in the number of live rows, by its form?"""
    if isinstance(e, Op) and e.name == "max":
        return False  # a start of full keys: left as that range has it
    match e:
        case Const():
            return True
        case Var():
            return True
        case Op("//", (a, Const(int() as by))) if by > 0:
            return _increasing(a)
        case Op("+" | "min", args):
            return all(_increasing(a) for a in args)
        case Op("-", (a, b)):
            return _increasing(a) and _MORE not in free_vars(b)
        case Op("*", (a, Const(int() as k))) | Op("*", (Const(int() as k), a)) if k > 0:
            return _increasing(a)
    return _MORE not in free_vars(e)


def _needed(bounds: Sequence[Expr], covers: Callable[[Expr, Expr], bool]) -> list[Expr]:
    """The bounds that no other one makes redundant."""
    kept: list[Expr] = []
    for b in bounds:
        if not any(covers(k, b) for k in kept):
            kept = [k for k in kept if not covers(b, k)] + [b]
    return kept


def _arms(name: str, e: Expr) -> list[Expr]:
    """The arguments of nested ``min`` or ``max``, flat."""
    if isinstance(e, Op) and e.name == name:
        return [x for a in e.args for x in _arms(name, a)]
    return [e]


def _ordered(bounds: Iterable[Expr]) -> list[Expr]:
    """A fixed order: constants last, short ones first."""
    return sorted(set(bounds), key=lambda e: (isinstance(e, Const), len(str(e)), str(e)))


def _floordiv(p: Poly, by: int) -> Poly:
    return p if by == 1 else poly.of_expr(op("//", poly.to_expr(p), by))
