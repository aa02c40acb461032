"""Attention within blocks becomes a batch of small attentions.

before::

    attn.attend over "b < B, h < H, i < N" query %q "b, h, i, d"
      source "j < N" key %k "b, h, j, d" ... mask "i // 48 == j // 48 and j <= i"

after::

    attn.attend over "b < B, h < H, g < (N + 47) // 48, i < min(48, N - g * 48)" query %q "b, h, g * 48 + i, d"
      source "j < min(48, N - g * 48)" key %k "b, h, g * 48 + j, d" ... mask "j <= i"

Legality: the mask implies ``(i + a) // w == (j + b) // w`` for a constant width ``w`` and shifts ``a``, ``b``; proved
on its integer set, so any spelling does.  Only for a single source.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ...ir import attn, poly
from ...ir.attributes import Dim
from ...ir.expr import ZERO, Expr, Op, Var, eq, maximum, minimum, walk
from ..analysis.cost import faster
from ..analysis.index_sets import implies
from .common import attends, facts_about, fresh, moduli, moved, moved_maps, work_of
from .rewriting import replace

MOST_SHIFTS = 4  # shifts of rows, and of keys, that are tried


@dataclass(frozen=True)
class BlockDiagonal(ModulePass):
    """Options: ``target`` is the device to win on; ``always`` skips the cost model."""

    name = "block-diagonal"
    target: str = "cpu-avx512"
    always: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for attend, facts in attends(op):
            if len(attend.source_list) != 1:
                continue
            found = blocks(attend, facts)
            if found is None:
                continue
            changes = by_block(attend, *found, facts)
            before = work_of(attend, facts)
            after = dataclasses.replace(before, domain=changes["dims"], sources=changes["sources"])
            if self.always or faster(after, before, self.target):
                replace(attend, attend.rebuilt(**changes))


def blocks(op: attn.AttendOp, facts: Sequence[Expr]) -> tuple[int, int, int] | None:
    """The smallest ``(w, a, b)`` such that live pairs have ``(i + a) // w == (j + b) // w``."""
    source, row = op.source_list[0], op.domain[-1]
    dims = (*op.domain, Dim(source.key, source.extent))
    for width in sorted(moduli(source.mask)):
        for a, b in itertools.product(_shifts(source.mask, row.name, width), _shifts(source.mask, source.key, width)):
            same = eq((Var(row.name) + a) // width, (Var(source.key) + b) // width)
            if implies(source.mask, same, dims, facts):
                return width, a, b
    return None


def _shifts(mask: Expr, name: str, width: int) -> Iterator[int]:
    """Constants added to ``name`` in the mask, below ``width``; 0 first."""
    found = {0}
    for e in walk(mask):
        if isinstance(e, Op) and e.name in ("+", "-"):
            terms = poly.of_expr(e)
            if terms.keys() <= {(Var(name),), ()} and terms.get((Var(name),)) == 1:
                found.add(terms.get((), 0) % width)
    return itertools.islice(sorted(found), MOST_SHIFTS)


def by_block(op: attn.AttendOp, width: int, a: int, b: int, facts: Sequence[Expr]) -> dict[str, Any]:
    """What changes in an attention when blocks become a batch dimension."""
    *batch, row = op.domain
    (s,) = op.source_list
    g = Var(fresh("g", op))
    count = (row.extent + (a + width - 1)) // width
    known = facts_about([*batch, Dim(g.name, count)], facts, [row.extent, s.extent])

    def part(extent: Expr, shift: int) -> tuple[Expr, Expr]:
        """First element and size of block ``g`` of a line of ``extent`` elements."""
        first = maximum(g * width - shift, 0) if shift else g * width
        size = minimum((g + 1) * width - shift, extent) - first if shift else minimum(width, extent - g * width)
        return known.simplify(first), known.simplify(maximum(size, ZERO))

    row_first, row_size = part(row.extent, a)
    key_first, key_size = part(s.extent, b)
    domain = (*batch, Dim(g.name, known.simplify(count)), Dim(row.name, row_size))
    rows, keys = {row.name: row_first + Var(row.name)}, {s.key: key_first + Var(s.key)}
    maps = moved_maps(op, (*domain, Dim(s.key, key_size)), rows, facts)
    source = moved(s, domain, key_size, rows | keys, facts)
    return {"dims": domain, "sources": (source,), **maps}
