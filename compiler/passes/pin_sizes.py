"""Sizes of captured tensors that a score or a mask divides pairs by become constants.

before, called with ``index_1 == 49``::

    ... source "j < 49" ... score "lambda dot: dot + table[index.int[(i * 49 + j) // index_1, (i * 49 + j) % index_1]]"

after, with a guard ``index_1 == 49``::

    ... source "j < 49" ... score "lambda dot: dot + table[index.int[i, j]]"

A vector of integers has no instruction for division, so a number that is not known costs as much as the attention
itself; and one that is known often cancels.  A flattened table of positions is the usual reason.

Legality: the guard.  Lengths, batches and heads are left alone, for they change from call to call; so are sizes that
only index maps divide by: those divisions are one for each row.  The columns of an image are no length, for its tokens
number rows times columns: a mask that divides by them is about rows and columns.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.expr import Const, Expr, Lambda, Op, Var, eq, free_vars, substitute, walk
from ...ir.poly import of_expr
from .common import facts_about
from .rewriting import replace


@dataclass(frozen=True)
class PinSizes(ModulePass):
    """Options: ``names`` and ``values`` are the sizes of the call at hand."""

    name = "pin-sizes"
    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()

    def apply(self, ctx: Context, module: ModuleOp) -> None:
        sizes = dict(zip(self.names, self.values, strict=True))
        for func in [f for f in module.walk() if isinstance(f, attn.FuncOp)]:
            guards: list[Expr] = []
            facts = func.facts
            for attend in [o for o in func.body.block.ops if isinstance(o, attn.AttendOp)]:
                found = sorted((divisors(attend) & sizes.keys()) - lengths(attend))
                if found:
                    known: dict[str, Expr] = {name: Const(sizes[name]) for name in found}
                    guards += [eq(Var(name), value) for name, value in known.items()]
                    replace(attend, attend.rebuilt(sources=pinned(attend, known, facts)))
            func.require(guards)


def divisors(attend: attn.AttendOp) -> set[str]:
    """Sizes in what a score or a mask divides an expression of the row or the key by."""
    dims = {d.name for d in attend.domain}
    found: set[str] = set()
    for s in attend.source_list:
        pair = {attend.domain[-1].name, s.key}
        for e in (e for whole in (s.mask, s.score.body) for e in walk(whole)):
            if isinstance(e, Op) and e.name in ("//", "%") and free_vars(e.args[0]) & pair:
                sizes = free_vars(e.args[1])
                found |= sizes if not sizes & (dims | pair) else set()
    return found


def lengths(attend: attn.AttendOp) -> set[str]:
    """Sizes of the tensors that are attended to, which no call repeats."""
    shapes = (attn.tensor_type(v).shape for v in (attend.query, *attend.keys, *attend.values))
    found = {name for shape in shapes for size in shape for name in free_vars(size)}
    return found - axes(attend)


def axes(attend: attn.AttendOp) -> set[str]:
    """Sizes of a grid of tokens: factors of the number of rows and of keys, and of nothing else."""
    tokens = [attend.domain[-1].extent, *(s.extent for s in attend.source_list)]
    grids = [_factors(extent) for extent in tokens]
    batch: set[str] = set().union(*(free_vars(d.extent) for d in attend.domain[:-1]))
    return set.intersection(*grids) - batch


def _factors(e: Expr) -> set[str]:
    """The variables of a product of several."""
    products = list(of_expr(e))
    if len(products) != 1 or len(products[0]) < 2:
        return set()
    return {x.name for x in products[0] if isinstance(x, Var)}


def pinned(attend: attn.AttendOp, known: dict[str, Expr], facts: tuple[Expr, ...]) -> list[attn.Source]:
    """The sources with these sizes known."""
    result = []
    for s in attend.source_list:
        inside = facts_about((*attend.domain, Dim(s.key, s.extent)), facts)
        body = inside.simplify(substitute(s.score.body, known))
        mask = inside.simplify(substitute(s.mask, known))
        result.append(dataclasses.replace(s, mask=mask, score=Lambda(s.score.params, body)))
    return result
