"""Give every row of an image its own point of the batch where a mask looks at rows and columns.

before::

    attn.attend over "b < B, h < H, i < N" ... mask "abs(i // 56 - j // 56) <= 3 and abs(i % 56 - j % 56) <= 3"

after::

    attn.attend over "b < B, h < H, y < (N + 55) // 56, i < min(56, N - y * 56)" ...
      mask "abs(y - j // 56) <= 3 and abs(i - j % 56) <= 3"

A tile then holds queries of one image row, whose keys are short pieces of a few image rows: a tile of consecutive
tokens may begin in one row and end in the next.

Legality: a change of variables of the rows, one to one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.expr import Const, Expr, Var, ceildiv, free_vars, minimum, substitute
from ..analysis.cost import faster
from ..analysis.segments import widths
from .common import attends, facts_about, fresh, moved, work_of
from .rewriting import replace


@dataclass(frozen=True)
class ImageRows(ModulePass):
    """Options: ``target`` is the device whose cost decides; ``always`` does it whatever the cost."""

    name = "image-rows"
    target: str = "cpu-avx512"
    always: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for attend, facts in attends(op):
            if attend.tiles is not None:
                continue
            row, masks = attend.domain[-1].name, [s.mask for s in attend.source_list]
            for width in widths(masks, lambda x, row=row: row in free_vars(x)):  # type: ignore[misc]
                after = _by_rows(attend, width, facts)
                if after is None:
                    continue
                before = work_of(attend, facts)
                work = dataclasses.replace(before, domain=after.domain, sources=tuple(after.source_list))
                if self.always or faster(work, before, self.target):
                    replace(attend, after)
                    break


def _by_rows(op: attn.AttendOp, width: int, facts: tuple[Expr, ...]) -> attn.AttendOp | None:
    """The same with the rows in lines of ``width``."""
    *batch, row = op.domain
    if free_vars(row.extent) & {d.name for d in batch}:
        return None  # ragged as it is
    line = Dim(fresh("y", op), ceildiv(row.extent, width))
    domain = (*batch, line, Dim(row.name, minimum(Const(width), row.extent - Var(line.name) * width)))
    rows = {row.name: Var(line.name) * width + Var(row.name)}
    sources = tuple(moved(s, domain, s.extent, rows, facts) for s in op.source_list)
    known = facts_about(domain, facts)
    maps = {
        name: tuple(known.simplify(substitute(e, rows)) for e in getattr(op, name).data)
        for name in ("query_map", "out_map", "lse_map")
    }
    return op.rebuilt(dims=domain, sources=sources, **maps)
