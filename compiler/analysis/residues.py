"""Periodic structure of masks: the one residue of ``i - j`` that a mask allows, or the one block."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.attn import Source
from ...ir.attributes import Dim
from ...ir.expr import TRUE, Expr, Var, op, substitute
from ...ir.simplify import simplify
from .closed_form import Prover, intervals
from .index_sets import in_domain
from .integer_sets import Space, holds_under, isl, within_budget

_RESIDUE = "_residue"


def residue(domain: Sequence[Dim], source: Source, period: int, facts: Sequence[Expr] = ()) -> Expr | None:
    """The value that ``(i - j) % period`` has wherever the mask holds, or None when it has several.

    ``i`` is the row and ``j`` the key; the value is an expression of sizes and batch dimensions.
    """
    row, key = domain[-1].name, source.key
    where = (Var(row) - Var(key)) % period
    given = [*holds_under(facts), *in_domain(domain[:-1])]
    pairs = in_domain([domain[-1], Dim(key, source.extent)])

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
