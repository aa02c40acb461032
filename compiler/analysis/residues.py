"""Periodic structure of masks: the one residue of ``i - j`` that a mask allows, or the one block."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import poly
from ...ir.attn import Source
from ...ir.attributes import Dim
from ...ir.expr import TRUE, ZERO, Const, Expr, Op, Var, all_of, conjuncts, free_vars, loads, op, substitute
from ...ir.simplify import simplify
from .closed_form import Prover, intervals
from .index_sets import in_domain
from .integer_sets import Space, holds_under, is_hard, isl, within_budget
from .witness import exists, several

_RESIDUE = "_residue"
_OTHER_ROW, _OTHER_KEY = "_row", "_key"


def residue(domain: Sequence[Dim], source: Source, period: int, facts: Sequence[Expr] = ()) -> Expr | None:
    """The value that ``(i - j) % period`` has wherever the mask holds, or None when it has several.

    ``i`` is the row and ``j`` the key; the value is an expression of sizes and batch dimensions.
    """
    row, key = domain[-1].name, source.key
    where = (Var(row) - Var(key)) % period
    given = [*holds_under(facts), *in_domain(domain[:-1])]
    pairs = in_domain([domain[-1], Dim(key, source.extent)])

    stated = _stated(row, source, period)
    if stated is not None:
        return simplify(stated % period)
    if several(where, source.mask, (*domain, Dim(key, source.extent)), facts):
        return None
    if _has_several(domain, source, where, facts) or is_hard(source.mask, (row, key)):
        return None

    def ask() -> Expr | None:
        exprs = [*given, *pairs, source.mask, op("==", Var(_RESIDUE), where)]
        space = Space((_RESIDUE, row, key), exprs, opaque=True)
        live = space.known & space.upper_all(exprs)
        found = live.project_out(isl().dim_type.set, 1, 2)
        rest = space.without(row).without(key)
        prover = Prover(rest, rest.known & rest.upper_all(space.abstract(c) for c in given))
        values = intervals(found, prover, cover=True)
        if values is None or len(values) != 1 or not prover.at_most(values[0].hi, values[0].lo + 1):
            return None
        value = values[0].lo
        return simplify(substitute(value, space.terms) % period)

    return within_budget(ask, lambda: None) if source.mask != TRUE else None


def _has_several(domain: Sequence[Dim], source: Source, where: Expr, facts: Sequence[Expr]) -> bool:
    """Were two live pairs found, that differ in ``where``?"""
    row = domain[-1]
    dims = (*domain, Dim(source.key, source.extent), Dim(_OTHER_ROW, row.extent), Dim(_OTHER_KEY, source.extent))
    other = {row.name: Var(_OTHER_ROW), source.key: Var(_OTHER_KEY)}
    differ = op("!=", where, substitute(where, other))
    return exists(all_of([source.mask, substitute(source.mask, other), differ]), dims, facts)


def _stated(row: str, source: Source, period: int) -> Expr | None:
    """The residue that a conjunct like ``(i - j + c) % 16 == 3`` or ``i % 8 == j % 8`` states as it stands."""
    for c in conjuncts(source.mask):
        match c:
            case Op("==", (Op("%", (a, Const(n))), Op("%", (b, Const(m))))) if n == m and n % period == 0:
                found = _solved(a - b, ZERO, row, source.key)
            case Op("==", (Op("%", (a, Const(n))), b)) | Op("==", (b, Op("%", (a, Const(n))))) if n % period == 0:
                found = _solved(a, b, row, source.key)
            case _:
                continue
        if found is not None:
            return found
    return None


def _solved(a: Expr, b: Expr, row: str, key: str) -> Expr | None:
    """``row - key`` from ``a == b``, modulo something, where ``a`` is plus or minus that and more."""
    terms = dict(poly.of_expr(a))
    slope = terms.pop((Var(row),), 0)
    if abs(slope) != 1 or terms.pop((Var(key),), 0) != -slope:
        return None
    rest = poly.add(poly.of_expr(b), terms, -1)
    value = poly.to_expr(poly.scale(rest, slope))
    return None if free_vars(value) & {row, key} or loads(value) else value
