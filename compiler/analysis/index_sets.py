"""Which keys a tile of queries touches, in closed form.

A mask is read as an integer set over (query row, key).  For the rows of one tile, a key is *touched* when some row
may see it and *full* when every row certainly does; the touched keys that are not full are *partial* and need the
mask.  Both come out as a few ranges whose ends are expressions of grid dimensions and sizes, so the cost of
the analysis does not depend on any size.  What is no integer set (captured tensors, products of indices) counts as
"maybe": touched, never full.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from ...ir import poly
from ...ir.attn import Source
from ...ir.attributes import Dim
from ...ir.expr import (
    FALSE,
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
    op,
    rewrite,
    substitute,
    walk,
)
from ...ir.simplify import Facts, simplify
from ...ir.simplify import Range as Bounds
from ...ir.tile import Axis, Range
from .closed_form import Interval, Prover, arms, intervals
from .hulls import Ends, arms_of, interval_ranges, plain_ranges
from .integer_sets import Space, holds_under, is_hard, isl, within_budget
from .segments import by_blocks, segments
from .tiles import KeyRanges, Tile, Wanted
from .witness import exists

MOST_CASES = 3  # conditions on batch dimensions that are told apart
MOST_PIECES = 4  # touched, and full, intervals that are kept apart
SMALLEST_GAP = 64  # fewer dead keys between two touched intervals are walked over
NO_FULL = 1 << 60  # keys that no full range has
_LAST = "_last"  # end of the tile's live rows


def key_ranges(domain: Sequence[Dim], rows: int, source: Source, facts: Iterable[Expr] = ()) -> KeyRanges:
    """The keys that ``rows`` consecutive queries see, as expressions of the batch dimensions and the tile ``t``."""
    return tile_ranges(_tile(domain, rows, source, facts))


def counted_ranges(domain: Sequence[Dim], rows: int, source: Source, facts: Iterable[Expr] = ()) -> KeyRanges:
    """Ranges of the same lengths, in expressions that only a count will see: a cost model asks for many heights."""
    tile = _tile(domain, rows, source, facts)
    whole = tile.mask in (TRUE, FALSE) or _row_free_conditions(tile) or by_blocks(tile)
    return (None if whole else plain_ranges(tile)) or tile_ranges(tile)


def _tile(domain: Sequence[Dim], rows: int, source: Source, facts: Iterable[Expr]) -> Tile:
    row = domain[-1]
    axis = Axis(row.name, Var("t") * rows, rows, row.extent)
    return Tile(tuple(domain[:-1]), axis, Dim(source.key, source.extent), source.mask, tuple(facts))


@lru_cache(maxsize=4096)
def tile_ranges(tile: Tile, min_full: int = 1, align: int = 1) -> KeyRanges:
    """The keys of a tile.

    Full ranges that never reach ``min_full`` keys stay within the partial ones.  With ``align``, full ranges shrink to
    multiples of it where that is a constant shift, so that a loop in steps of ``align`` has no odd ends.
    """
    wanted = Wanted(min_full, align)
    conditions = _row_free_conditions(tile)
    if not conditions or len(conditions) > MOST_CASES:
        return _ranges_of_case(tile, wanted)
    cases = []
    for values in itertools.product((True, False), repeat=len(conditions)):
        truth = dict(zip(conditions, values, strict=True))
        mask = rewrite(tile.mask, lambda e, truth=truth: Const(truth[e]) if e in truth else None)
        facts = tuple(c if v else op("not", c) for c, v in truth.items() if not loads(c))
        case = Tile(tile.batch, tile.rows, tile.key, mask, tile.facts + facts)
        cases.append(None if _impossible(case) else _ranges_of_case(case, wanted))
    return _by_case(list(conditions), cases) or KeyRanges((), ())


def _row_free_conditions(tile: Tile) -> list[Expr]:
    """Conditions in the mask that are the same for all pairs of a tile, such as ``h < 4``."""
    inner = {tile.rows.name, tile.key.name}
    found: list[Expr] = []

    def visit(e: Expr) -> None:
        if isinstance(e, Op) and kind_of(e) == "bool" and not free_vars(e) & inner and not loads(e):
            if e.name not in ("and", "or", "not"):
                found.append(e)
                return
        for child in e.children:
            visit(child)

    visit(tile.mask)
    return list(dict.fromkeys(found))


def _by_case(conditions: list[Expr], cases: list[KeyRanges | None]) -> KeyRanges | None:
    """Ranges that depend on conditions, from the ranges for each combination of their truth values."""
    if not conditions:
        return cases[0]
    half = len(cases) // 2
    yes, no = _by_case(conditions[1:], cases[:half]), _by_case(conditions[1:], cases[half:])
    if yes is None or no is None or yes == no:
        return yes or no

    def choose(a: Sequence[Range], b: Sequence[Range]) -> tuple[Range, ...]:
        empty = Range(ZERO, ZERO)
        pairs = itertools.zip_longest(a, b, fillvalue=empty)
        return tuple(
            Range(op("where", conditions[0], x.lo, y.lo), op("where", conditions[0], x.hi, y.hi)) for x, y in pairs
        )

    return KeyRanges(choose(yes.full, no.full), choose(yes.partial, no.partial))


# ---- one case -----------------------------------------------------------------------------------------------


def _ranges_of_case(tile: Tile, wanted: Wanted) -> KeyRanges:
    if tile.mask == FALSE:
        return KeyRanges((), ())
    if tile.mask == TRUE:
        return KeyRanges((tile.whole,), ())
    if found := segments(tile, lambda part: _ranges_of_case(part, Wanted(NO_FULL))):
        return found
    quick, settled = interval_ranges(tile, wanted)
    if settled:
        return quick
    arms = arms_of(tile, _LAST) if _is_costly(tile) else None
    if arms is None and is_hard(tile.mask, (tile.rows.name, tile.key.name)):
        return quick

    def ask() -> KeyRanges:
        return (_Sets(tile) if arms is None else _Sets.of_arms(tile, arms)).ranges(wanted) or quick

    return within_budget(ask, lambda: quick)


def _is_costly(tile: Tile) -> bool:
    """Is a set of pairs costly: are there remainders of rows or keys?"""
    inner = {tile.rows.name, tile.key.name}
    parts = [e for e in walk(tile.mask) if isinstance(e, Op) and free_vars(e) & inner]
    return any(e.name in ("%", "&") for e in parts)


class _Sets:
    """The sets of one tile and what follows from them."""

    def __init__(self, tile: Tile):
        self.tile = tile
        rows, key = tile.rows, tile.key
        grid = tile_context(tile)
        i, j, last = Var(rows.name), Var(key.name), Var(_LAST)
        end = (op("<", rows.base, last), op("<=", last, rows.base + rows.size), op("<=", last, rows.bound))
        inside = all_of([op("<=", 0, j), op("<", j, key.extent)])
        exprs = [*grid, *end, inside, tile.mask, rows.base, rows.bound, i]
        pairs = Space((key.name, rows.name), exprs, opaque=True)
        self.space = pairs.without(rows.name)
        self.terms = pairs.terms
        known = pairs.known & pairs.upper_all(grid)
        row_axis = isl().dim_type.set, 1, 1
        context = (known & pairs.upper_all(end)).project_out(*row_axis).coalesce()
        self.prover = Prover(self.space, context)
        self.abstract = pairs.abstract
        live = known & pairs.upper_all(
            [op("<=", rows.base, i), op("<", i, rows.base + rows.size), op("<", i, rows.bound), inside]
        )
        self.touched = (live & pairs.upper(tile.mask)).project_out(*row_axis)
        dead = (
            pairs.lower(tile.mask).complement()
            & known
            & pairs.upper_all([*end, op("<=", rows.base, i), op("<", i, last)])
        )
        keys = pairs.upper(inside).project_out(*row_axis) & context
        self.full = keys - dead.project_out(*row_axis)
        self.keys = keys

    @classmethod
    def of_arms(cls, tile: Tile, arms: Sequence[tuple[Ends, Ends | None]]) -> _Sets:
        """The union of the alternatives' intervals: no set of pairs is built."""
        self = cls.__new__(cls)
        self.tile = tile
        rows, key = tile.rows, tile.key
        j, last = Var(key.name), Var(_LAST)
        given = [
            *tile_context(tile),
            op("<", rows.base, last),
            op("<=", last, rows.base + rows.size),
            op("<=", last, rows.bound),
        ]
        ends = [e for arm in arms for x in arm if x is not None for e in (*x.lows, *x.highs)]
        self.space = Space((key.name,), [*given, *ends, key.extent, rows.base, rows.bound], opaque=True)
        self.terms, self.abstract = self.space.terms, self.space.abstract
        context = self.space.known & self.space.upper_all(given)

        def union(found: Iterable[Ends]) -> Any:
            result = isl().Set.empty(self.space.space)
            for x in found:
                between = [*(op("<=", lo, j) for lo in x.lows), *(op("<", j, hi) for hi in x.highs)]
                result = result | self.space.upper_all(between)
            return (result & context).coalesce()

        self.prover = Prover(self.space.closed(), context)
        self.keys = union([Ends([ZERO], [key.extent])])
        self.touched = union(touched for touched, _ in arms)
        self.full = union(full for _, full in arms if full is not None)
        return self

    def ranges(self, wanted: Wanted) -> KeyRanges | None:
        touched = self._touched()
        full = self._full(touched, wanted)
        for chosen in (full, []) if full else ([],):
            result = self._cut(touched, chosen)
            if self._right(*result):
                return self._printed(*result)
        return None

    def _touched(self) -> list[Interval]:
        """Intervals that cover the touched keys, none starting before its predecessor."""
        p = self.prover
        found = intervals(self.touched, p, cover=True)
        if found is None:
            hull = isl().Set.from_basic_set((self.touched & p.context).simple_hull())
            found = intervals(hull, p, cover=True)
        if found is None:
            found = [Interval(ZERO, self.abstract(self.tile.key.extent))]
        ordered: list[Interval] = []
        while found:
            first = next((x for x in found if all(p.precedes(x, y) for y in found if y is not x)), None)
            if first is None:
                ordered.append(self._hull(found))
                break
            found = [x for x in found if x is not first]
            if ordered and (p.at_most(first.lo, ordered[-1].hi + SMALLEST_GAP) or len(ordered) == MOST_PIECES):
                ordered[-1] = self._extended(ordered[-1], first)
            else:
                ordered.append(first)
        return ordered

    def _extended(self, x: Interval, by: Interval) -> Interval:
        """The hull of an interval and one that starts no earlier where it is not empty."""
        hull = self._hull([x, by])
        never_first = self.prover.never(op("and", op("<", by.lo, by.hi), op(">", x.lo, by.lo)))
        return Interval(x.lo, hull.hi) if never_first else hull

    def _hull(self, parts: list[Interval]) -> Interval:
        p = self.prover
        return Interval(p.smallest([x.lo for x in parts]), p.largest([x.hi for x in parts]))

    def _aligned(self, x: Interval, align: int) -> Interval:
        """``x`` with its ends moved inwards to multiples of ``align``, taking every tile to be whole."""
        p, rows = self.prover, self.tile.rows

        def move(arms: list[Expr], up: bool) -> list[Expr]:
            moved = []
            for arm in arms:
                if _LAST in free_vars(arm):
                    arm = substitute(arm, {_LAST: self.abstract(rows.base) + rows.size})
                terms = poly.of_expr(arm)
                if all(k % align == 0 for m, k in terms.items() if m) and len(terms) > 1:
                    off = terms.get((), 0) % align
                    arm = poly.to_expr(poly.add(terms, poly.constant(-off % align if up else -off)))
                moved.append(arm)
            return moved

        return Interval(p.largest(move(arms("max", [x.lo]), True)), p.smallest(move(arms("min", [x.hi]), False)))

    def _full(self, touched: list[Interval], wanted: Wanted) -> list[Interval]:
        """Intervals of full keys worth a loop of their own, in order."""
        p, found = self.prover, intervals(self.full, self.prover, cover=False) or []
        if wanted.align > 1:
            found = [x if x in touched else self._aligned(x, wanted.align) for x in found]
        rows, min_full = self.tile.rows, wanted.width
        whole = op("==", Var(_LAST), self.abstract(rows.base) + rows.size)
        wide = [x for x in found if not p.never(op("and", whole, op(">=", x.hi - x.lo, min_full)))]
        if not wide and not p.never(op("not", whole)):
            # rows that never fill a tile: decoding
            wide = [x for x in found if p.never(whole) and not p.never(op(">=", x.hi - x.lo, min_full))]
        free = [x for x in found if x not in wide and x in touched]
        ordered: list[Interval] = []
        for x in wide + free:
            at = next((n for n, y in enumerate(ordered) if p.precedes(x, y)), len(ordered))
            if all(p.precedes(y, x) for y in ordered[:at]):
                ordered.insert(at, x)
        return ordered[:MOST_PIECES]

    def _cut(self, touched: list[Interval], full: list[Interval]) -> tuple[list[Interval], list[Interval]]:
        """Disjoint full intervals, and what they leave of the touched ones."""
        p = self.prover
        cuts: list[Interval] = []
        for x in full:
            lo = p.largest([x.lo, cuts[-1].hi]) if cuts else x.lo
            cuts.append(Interval(lo, p.largest([x.hi, lo])))
        partial: list[Interval] = []
        start = None
        for x in touched:
            lo = x.lo if start is None else p.largest([x.lo, start])
            start = x.hi
            for cut in cuts:
                partial.append(Interval(lo, p.smallest([x.hi, cut.lo])))
                lo = p.largest([lo, cut.hi])
            partial.append(Interval(lo, x.hi))
        whole = [Interval(c.lo, x.hi) for c, x in zip(cuts, full, strict=True)]
        return [x for x in whole if not p.is_empty(x)], [x for x in partial if not p.is_empty(x)]

    def _right(self, full: list[Interval], partial: list[Interval]) -> bool:
        """Do the ranges mean what they must?  Checked on the sets, whatever way the ranges were found."""
        p = self.prover
        found = [p.points(x) for x in full + partial]
        for n, a in enumerate(found):
            if not a.is_subset(self.keys) or any(not (a & b).is_empty() for b in found[n + 1 :]):
                return False
            if n < len(full) and not a.is_subset(self.full):
                return False
        union = isl().Set.empty(self.space.space)
        for a in found:
            union = union | a
        return (self.touched & p.context).is_subset(union)

    def _printed(self, full: list[Interval], partial: list[Interval]) -> KeyRanges:
        rows = self.tile.rows
        end = self.prover.smallest([self.abstract(rows.base) + rows.size, self.abstract(rows.bound)])

        def show(e: Expr) -> Expr:
            whole = substitute(substitute(e, {_LAST: end}), self.terms)
            return simplify(substitute(whole, {_LAST: self.tile.end}))  # terms may use it

        def ranges(found: list[Interval]) -> tuple[Range, ...]:
            return tuple(Range(show(x.lo), show(x.hi)) for x in found)

        return KeyRanges(ranges(full), ranges(partial))


# ---- questions ----------------------------------------------------------------------------------------------


def tile_context(tile: Tile) -> list[Expr]:
    """What holds at every tile that has rows."""
    return [
        *holds_under(tile.facts),
        *in_domain(tile.batch),
        op("<", tile.rows.base, tile.rows.bound),
        op(">=", tile.rows.base, 0),
    ]


def in_domain(dims: Iterable[Dim]) -> list[Expr]:
    """Conditions that a point of a domain satisfies."""
    return [c for d in dims for c in (op("<=", 0, Var(d.name)), op("<", Var(d.name), d.extent))]


def _impossible(tile: Tile) -> bool:
    return is_empty(TRUE, (), tile_context(tile))


@lru_cache(maxsize=4096)
def _never(condition: Expr, given: tuple[Expr, ...]) -> bool:
    def ask() -> bool:
        space = Space((), [condition, *given])
        return (space.known & space.upper_all([*given, condition])).is_empty()

    return within_budget(ask, lambda: False)


@lru_cache(maxsize=256)
def _facts_at(dims: tuple[Dim, ...], holds: tuple[Expr, ...]) -> Facts:
    """What holds at the points of a domain, for proofs by arithmetic."""
    names = set().union(*(free_vars(d.extent) for d in dims), *(free_vars(e) for e in holds))
    ranges: dict[str, Bounds] = dict.fromkeys(sorted(names), (ZERO, None))
    return Facts(ranges | {d.name: (ZERO, d.extent - 1) for d in dims}, holds)


def is_empty(condition: Expr, dims: Sequence[Dim], facts: Iterable[Expr] = ()) -> bool:
    """Does the condition provably hold nowhere in the domain?"""
    facts = tuple(facts)
    if exists(condition, dims, facts):
        return False
    return _never(condition, (*holds_under(facts), *in_domain(dims)))


def implies(premise: Expr, conclusion: Expr, dims: Sequence[Dim], facts: Iterable[Expr] = ()) -> bool:
    """Does ``conclusion`` provably hold at all points of the domain where ``premise`` does?"""
    facts = tuple(facts)
    if exists(op("and", premise, op("not", conclusion)), dims, facts):
        return False
    if _facts_at(tuple(dims), (*facts, premise)).always(conclusion):
        return True
    return is_empty(op("and", premise, op("not", conclusion)), dims, facts)


def rows_never_empty(dims: Sequence[Dim], source: Source, facts: Iterable[Expr] = ()) -> bool:
    """Does every row of the domain provably see at least one key of ``source``?"""
    key = Dim(source.key, source.extent)
    given = [*holds_under(facts), *in_domain(dims)]

    def ask() -> bool:
        space = Space((source.key,), [source.mask, *given, *in_domain([key])])
        rows = space.known & space.upper_all(given)
        seen = space.lower(source.mask) & space.upper_all(in_domain([key]))
        return rows.params().is_subset((seen & rows).params())

    return within_budget(ask, lambda: False)
