"""Which dimensions an index map determines, and whether it meets every element: who may write where.

Two points of a domain that differ in a dimension which the index *determines* never share an element, so tasks that
are split along such dimensions only may write without a word to each other.  Proofs go component by component (indices
that share no dimension say nothing about each other): by form where the form is one of the usual ones, which is
instant and knows products of sizes, point by point where sizes are numbers, and else on integer sets.  What is not
proved counts as not so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ...ir import poly
from ...ir.attributes import Dim
from ...ir.expr import Const, Expr, Op, Var, all_of, eq, free_vars, loads, minimum, op, substitute
from ...ir.simplify import Facts
from .index_sets import in_domain, is_empty
from .integer_sets import Space, holds_under, isl, within_budget
from .numeric import array_value, countable

MOST_POINTS = 1 << 18  # that are looked at one by one


@dataclass(frozen=True, slots=True)
class Reach:
    """``determined`` dimensions follow from the index; ``onto``: every element of the tensor is met."""

    determined: frozenset[str]
    onto: bool


@dataclass(frozen=True, slots=True)
class _Part:
    """Dimensions and indices that share no dimension with the rest of the map."""

    dims: tuple[Dim, ...]
    index: tuple[Expr, ...]
    sizes: tuple[Expr, ...]


@lru_cache(maxsize=1024)
def reach(
    index: tuple[Expr, ...], dims: tuple[Dim, ...], shape: tuple[Expr, ...], facts: tuple[Expr, ...] = ()
) -> Reach:
    """What ``index`` over ``dims`` does to a tensor of ``shape``."""
    determined: set[str] = set()
    onto = True
    for part in _parts(index, dims, shape):
        found = _by_form(part, facts) or _by_points(part) or _rotated(part, facts) or _by_sets(part, facts)
        determined |= found.determined
        onto &= found.onto
    return Reach(frozenset(determined), onto)


def _parts(index: Sequence[Expr], dims: Sequence[Dim], shape: Sequence[Expr]) -> Iterator[_Part]:
    """The components of a map; a dimension also holds together with those that its extent uses."""
    names = {d.name for d in dims}
    groups: list[set[str]] = [{d.name} | (free_vars(d.extent) & names) for d in dims]
    groups += [set(free_vars(e) & names) for e in index]
    merged: list[set[str]] = []
    for group in groups:
        for other in [g for g in merged if g & group]:
            merged.remove(other)
            group |= other
        if group:
            merged.append(group)
    for group in merged:
        at = [n for n, e in enumerate(index) if free_vars(e) & group]
        yield _Part(tuple(d for d in dims if d.name in group), tuple(index[n] for n in at), tuple(shape[n] for n in at))
    at = [n for n, e in enumerate(index) if not free_vars(e) & names]
    if at:
        yield _Part((), tuple(index[n] for n in at), tuple(shape[n] for n in at))


# ---- by form --------------------------------------------------------------------------------------------------


def _by_form(part: _Part, facts: tuple[Expr, ...]) -> Reach | None:
    """The answer for the usual forms; None for others."""
    known = _known(part, facts)
    names = {d.name: d for d in part.dims}
    if not part.index:  # a dimension with one point has nothing to tell
        single = frozenset(d.name for d in part.dims if known.always(op("<=", d.extent, 1)))
        return Reach(single, all(known.always(op("<=", 1, d.extent)) for d in part.dims))
    if not part.dims:
        return Reach(frozenset(), all(_equal(size, Const(1), known) for size in part.sizes))
    if len(part.dims) == 1 and len(part.index) == 1 and part.index[0] == Var(part.dims[0].name):
        return Reach(frozenset(names), _equal(part.dims[0].extent, part.sizes[0], known))
    if any(free_vars(d.extent) & names.keys() for d in part.dims):
        return _cut_off(part, known)
    if len(part.index) == 1:
        return _mixed_radix(part.index[0], part.dims, part.sizes[0], known)
    if len(part.dims) == 1 and len(part.index) == 2:
        return _digits(part, known)
    return None


def _mixed_radix(e: Expr, dims: Sequence[Dim], size: Expr, known: Facts) -> Reach | None:
    """``(x * n + y + c) % size`` with ``y < n``, and the like."""
    match e:
        case Op("%", (inner, by)) if _equal(by, size, known):
            found = _mixed_radix(inner, dims, size, known)
            return found if found is not None and found.onto else None  # a rotation
    rest = poly.of_expr(e)
    total = poly.constant(1)
    todo = list(dims)
    slopes: dict[str, poly.Poly] = {}
    for d in dims:
        split = poly.split_linear(rest, Var(d.name))
        if split is None or not split[0]:
            return None
        slopes[d.name], rest = split
    if any(free_vars(a) & {d.name for d in dims} for p in (rest, *slopes.values()) for a in poly.atoms(p)):
        return None
    while todo:
        digit = next((d for d in todo if _same(slopes[d.name], total, known)), None)
        if digit is None:
            return None
        todo.remove(digit)
        total = poly.multiply(total, poly.of_expr(digit.extent))
    return Reach(frozenset(d.name for d in dims), _equal(poly.to_expr(total), size, known))


def _cut_off(part: _Part, known: Facts) -> Reach | None:
    """``x * n + y`` with ``y < n`` where the extent of one of the two ends with the tensor: blocks, and residues."""
    if len(part.dims) != 2 or len(part.index) != 1:
        return None
    ((e,), (size,)) = part.index, part.sizes
    for x, y in (part.dims, part.dims[::-1]):
        i, j = Var(x.name), Var(y.name)
        match poly.of_expr(e - j):
            case {**terms} if terms.keys() == {(i,)} and (n := terms[i,]) > 0:
                by_block = _equal(y.extent, minimum(n, size - i * n), known), op("//", size + (n - 1), n)
                by_residue = y.extent == Const(n), op("//", size - j + (n - 1), n)
                if any(fits and _equal(x.extent, whole, known) for fits, whole in (by_block, by_residue)):
                    return Reach(frozenset({x.name, y.name}), True)
    return None


def _digits(part: _Part, known: Facts) -> Reach | None:
    """``x // c`` and ``x % c`` as two indices, in any order."""
    (x,) = part.dims
    pairs = list(zip(part.index, part.sizes, strict=True))
    for (high, count), (low, base) in (pairs, pairs[::-1]):
        match high, low:
            case (Op("//", (Var(a), c)), Op("%", (Var(b), by))) if a == b == x.name and c == by:
                whole = _equal(base, c, known) and _equal(x.extent, op("*", count, c), known)
                return Reach(frozenset({x.name}), whole)
    return None


def _known(part: _Part, facts: Iterable[Expr]) -> Facts:
    names = set().union(*(free_vars(e) for e in (*(d.extent for d in part.dims), *part.sizes, *part.index)))
    return Facts({n: (Const(0), None) for n in sorted(names)}, facts)


def _equal(a: Expr, b: Expr, known: Facts) -> bool:
    return _same(poly.of_expr(a), poly.of_expr(b), known)


def _same(a: poly.Poly, b: poly.Poly, known: Facts) -> bool:
    return a == b or known.simplify(poly.to_expr(poly.add(a, b, -1))) == Const(0)


def _rotated(part: _Part, facts: tuple[Expr, ...]) -> Reach | None:
    """``(e + shift) % size`` meets every element, each as often as ``e`` does, if ``e`` does so for all elements."""
    known = _known(part, facts)
    names = {d.name for d in part.dims}
    index = []
    for e, size in zip(part.index, part.sizes, strict=True):
        match e:
            case Op("%", (inner, by)) if _equal(by, size, known):
                terms = poly.of_expr(inner)
                moved = {m: c for m, c in terms.items() if any(free_vars(a) & names for a in m)}
                index.append(poly.to_expr(moved))
            case _:
                index.append(e)
    if tuple(index) == part.index:
        return None
    plain = _Part(part.dims, tuple(index), part.sizes)
    found = _by_form(plain, facts) or _by_sets(plain, facts)
    return found if found.onto and found.determined == names else None


# ---- by points -----------------------------------------------------------------------------------------------


def _by_points(part: _Part) -> Reach | None:
    """The answer for a map whose sizes are all numbers, by looking at every point, if they are not too many."""
    names = {d.name for d in part.dims}
    exprs = (*part.index, *part.sizes, *(d.extent for d in part.dims))
    if not all(countable(e) and free_vars(e) <= names for e in exprs):
        return None
    points: dict[str, Any] = {}
    count = 1
    for d in part.dims:
        extents = np.broadcast_to(np.maximum(array_value(d.extent, points), 0), count)
        count = int(extents.sum())
        if count > MOST_POINTS:
            return None
        points = {name: np.repeat(x, extents) for name, x in points.items()}
        points[d.name] = np.arange(count) - np.repeat(np.cumsum(extents) - extents, extents)
    shape = [int(array_value(size, {})) for size in part.sizes]
    index = [np.broadcast_to(array_value(e, points), count) for e in part.index]
    inside = np.logical_and.reduce([(x >= 0) & (x < size) for x, size in zip(index, shape, strict=True)])
    if not inside.all():
        return None
    elements, element = np.unique(np.ravel_multi_index(index, shape), return_inverse=True)
    determined = set()
    for name, x in points.items():
        some = np.zeros(len(elements), dtype=x.dtype)
        some[element] = x
        if np.array_equal(some[element], x):
            determined.add(name)
    return Reach(frozenset(determined), len(elements) == math.prod(shape))


# ---- by integer sets ------------------------------------------------------------------------------------------


def _by_sets(part: _Part, facts: tuple[Expr, ...]) -> Reach:
    """Ask for two points of one element that differ in a dimension, and for an element that no point has."""
    again = {d.name: Var(f"{d.name}__2") for d in part.dims}
    second = tuple(Dim(again[d.name].name, substitute(d.extent, again)) for d in part.dims)
    both = (*part.dims, *second)
    met = all_of(eq(e, substitute(e, again)) for e in part.index if not loads(e))
    plain = {e.name for e in part.index if isinstance(e, Var)}
    determined = {
        d.name
        for d in part.dims
        if d.name in plain or is_empty(op("and", met, op("!=", Var(d.name), again[d.name])), both, facts)
    }
    return Reach(frozenset(determined), _onto(part, facts))


def _onto(part: _Part, facts: tuple[Expr, ...]) -> bool:
    if any(loads(e) for e in part.index):
        return False
    element = [Dim(f"__{n}", size) for n, size in enumerate(part.sizes)]
    inside = in_domain(element)
    at = all_of(eq(Var(x.name), e) for x, e in zip(element, part.index, strict=True))
    given = holds_under(facts)
    points = in_domain(part.dims)

    def ask() -> bool:
        space = Space([d.name for d in (*element, *part.dims)], [*inside, *points, *given, at])
        live = space.known & space.upper_all(given)
        met = live & space.lower(all_of([*points, at]))
        first = len(element)
        met = met.project_out(isl().dim_type.set, first, len(part.dims))
        box = (live & space.upper_all(inside)).project_out(isl().dim_type.set, first, len(part.dims))
        return bool(box.is_subset(met))

    return within_budget(ask, lambda: False)
