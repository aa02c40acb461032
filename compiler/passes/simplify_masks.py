"""Simplify masks, scores and index maps; turn very negative fills into masks.

before::

    source "j < N" ... mask "i - j >= 0 and i - j < N and j <= i"
      score "lambda dot: where(abs(i - j) <= 64, dot * 0.125, -1000000000.0)"

after::

    source "j < N" ... mask "j <= i and abs(i - j) <= 64" score "lambda dot: dot * 0.125"

Legality: a condition is dropped where the rest and the domain imply it.  A score of ``c`` with ``c <= -10000`` has the
probability 0 in every float type when the row has a live key elsewhere, so it is a mask if every row provably keeps
one; ``-inf`` is a mask always.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.expr import TRUE, Const, Expr, Lambda, Op, free_vars, op, rewrite, walk
from ..analysis.index_sets import rows_never_empty
from .common import attends, facts_about, tidy
from .rewriting import replace

FILL = -1e4  # from here on a constant score counts as "masked"
Fill = tuple[Expr, Expr, float]  # where the score is real, that score, and the constant elsewhere


@dataclass(frozen=True)
class SimplifyMasks(ModulePass):
    """Options: ``fills`` turns finite fills into masks."""

    name = "simplify-masks"
    fills: bool = True

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for attend, facts in attends(op):
            new = simplified(attend, facts, self.fills)
            if new:
                replace(attend, attend.rebuilt(**new))


def simplified(op: attn.AttendOp, facts: Sequence[Expr], fills: bool) -> dict[str, object]:
    """What changes in an attention; empty when it is simple already."""
    sources = tuple(_source(s, op, facts, fills) for s in op.source_list)
    known = facts_about(op.domain, facts)
    new: dict[str, object] = {
        name: tuple(known.simplify(e) for e in getattr(op, name).data) for name in ("query_map", "out_map", "lse_map")
    }
    new["sources"] = sources
    old = {name: getattr(op, name).data for name in ("query_map", "out_map", "lse_map")} | {
        "sources": tuple(op.source_list)
    }
    return {} if new == old else new


def _source(s: attn.Source, op: attn.AttendOp, facts: Sequence[Expr], fills: bool) -> attn.Source:
    pairs = (*op.domain, Dim(s.key, s.extent))
    known = facts_about(pairs, facts, [s.mask, s.extent])
    mask = tidy(s.mask, pairs, facts)
    score = rewrite(known.simplify(s.score.body), _one_choice)
    while fill := _fill(score):
        real, rest, value = fill
        joined = tidy(_and(mask, real), pairs, facts)
        candidate = dataclasses.replace(s, mask=joined)
        if value != -math.inf and not (fills and rows_never_empty(op.domain, candidate, facts)):
            break
        mask, score = joined, known.simplify(rest)
    return attn.Source(
        s.key,
        known.simplify(s.extent),
        tuple(known.simplify(e) for e in s.key_map),
        tuple(known.simplify(e) for e in s.value_map),
        mask,
        Lambda(s.score.params, score),
    )


def _and(a: Expr, b: Expr) -> Expr:
    return b if a == TRUE else op("and", a, b)


def _fill(score: Expr) -> Fill | None:
    """Read a score as "real where a condition holds, else a very negative constant"."""
    match score:
        case Op("where", (c, a, Const(float() as value))) if value <= FILL and "dot" not in free_vars(c):
            return c, a, value
        case Op("where", (c, Const(float() as value), a)) if value <= FILL and "dot" not in free_vars(c):
            return op("not", c), a, value
        case Op("+", (a, b)):
            for x, y in ((a, b), (b, a)):
                fill = _fill(x)
                if fill is not None and "dot" not in free_vars(x) and _is_zero(fill[1]):
                    return fill[0], y, fill[2]
                if fill is not None and isinstance(y, Const):
                    return fill[0], fill[1] + y, fill[2] + y.value
        case Op("*" | "/" as name, (a, Const(factor))) if factor > 0:
            fill = _fill(a)
            if fill is not None and (value := op(name, Const(fill[2]), factor)).value <= FILL:  # type: ignore[attr-defined]
                return fill[0], op(name, fill[1], factor), value.value  # type: ignore[attr-defined]
    return _weighed(score)


def _weighed(score: Expr) -> Fill | None:
    """``x * m - 1e9 * (1 - m)``, where a condition makes ``m`` 0 or 1."""
    for e in walk(score):
        match e:
            case Op("where", (c, Const(), Const())) if "dot" not in free_vars(c):
                for live, dead in ((c, _decided(score, c, False)), (op("not", c), _decided(score, c, True))):
                    if isinstance(dead, Const) and dead.value <= FILL:
                        return live, _decided(score, c, live == c), float(dead.value)
    return None


def _decided(score: Expr, condition: Expr, holds: bool) -> Expr:
    """``score`` where ``condition`` holds or does not; a product with 0 is 0."""

    def rule(e: Expr) -> Expr | None:
        match e:
            case Op("where", (c, a, b)) if c == condition:
                return a if holds else b
            case Op("*", (a, b)) if _is_zero(a) or _is_zero(b):
                return Const(0.0)
            case Op("*", (a, Const(1.0))) | Op("*", (Const(1.0), a)) | Op("+" | "-", (a, Const(0.0))):
                return a
        return None

    return rewrite(score, rule)


def _one_choice(e: Expr) -> Expr | None:
    """A choice inside a choice that repeats one of its values, as a choice by both conditions."""
    match e:
        case Op("where", (c, a, Op("where", (d, x, y)))) if a in (x, y):
            return op("where", op("and", op("not", c), d if a == y else op("not", d)), x if a == y else y, a)
        case Op("where", (c, Op("where", (d, x, y)), a)) if a in (x, y):
            return op("where", op("and", c, d if a == y else op("not", d)), x if a == y else y, a)
    return None


def _is_zero(e: Expr) -> bool:
    return isinstance(e, Const) and e.value == 0
