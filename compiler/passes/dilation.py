"""Attention within residue classes becomes dense attention on strided rows.

before::

    attn.attend over "b < B, h < H, i < N" query %q "b, h, i, d"
      source "j < N" key %k "b, h, j, d" ... mask "abs(i - j) <= 256 and (i - j) % 8 == 0"

after::

    attn.attend over "b < B, h < H, r < 8, i < (N - r + 7) // 8" query %q "b, h, i * 8 + r, d"
      source "j < (N - r + 7) // 8" key %k "b, h, j * 8 + r, d" ... mask "abs(i - j) <= 32"

Legality: the mask implies that ``(i - j) % 8`` has one value, which may depend on sizes and batch dimensions; proved
on its integer set, so any spelling does.  With several sources it must hold for each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.expr import Expr, Var, const
from ..analysis.cost import faster
from ..analysis.residues import residue
from .common import attends, facts_about, fresh, moduli, moved, moved_maps, work_of
from .rewriting import replace


@dataclass(frozen=True)
class Dilation(ModulePass):
    """Options: ``target`` is the device to win on; ``always`` skips the cost model."""

    name = "dilation"
    target: str = "cpu-avx512"
    always: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for attend, facts in attends(op):
            for period in moduli(attend.source_list[0].mask):
                offsets = [residue(attend.domain, s, period, facts) for s in attend.source_list]
                if None in offsets:
                    continue
                changes = by_residue(attend, period, offsets, facts)  # type: ignore[arg-type]
                before = work_of(attend, facts)
                after = dataclasses.replace(before, domain=changes["dims"], sources=changes["sources"])
                if self.always or faster(after, before, self.target):
                    replace(attend, attend.rebuilt(**changes))
                break


def by_residue(op: attn.AttendOp, period: int, offsets: Sequence[Expr], facts: Sequence[Expr]) -> dict[str, Any]:
    """What changes with rows ``i * period + r`` at residue ``r``; ``(i - j) % period`` is the offset."""
    *batch, row = op.domain
    r = Dim(fresh("r", op), const(period))
    known = facts_about([*batch, r], facts, [row.extent, *(s.extent for s in op.source_list), *offsets])
    rows = {row.name: Var(row.name) * period + Var(r.name)}
    domain = (*batch, r, Dim(row.name, known.simplify((row.extent - Var(r.name) + (period - 1)) // period)))

    sources = []
    for s, offset in zip(op.source_list, offsets, strict=True):
        first = known.simplify((Var(r.name) - offset) % period)
        extent = known.simplify((s.extent - first + (period - 1)) // period)
        keys = {s.key: Var(s.key) * period + first}
        sources.append(moved(s, domain, extent, rows | keys, facts))
    return {"dims": domain, "sources": tuple(sources), **moved_maps(op, domain, rows, facts)}
