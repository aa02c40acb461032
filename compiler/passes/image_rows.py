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
from ...ir.expr import Const, Expr, Var, ceildiv, free_vars, minimum
from ..analysis.cost import Work, faster
from ..analysis.segments import widths
from .common import attends, fresh, moved, moved_maps, work_of
from .rewriting import replace


@dataclass(frozen=True)
class ImageRows(ModulePass):
    """Options: ``target`` is the device whose cost decides; ``always`` does it whatever the cost."""

    name = "image-rows"
    target: str = "cpu-avx512"
    always: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for attend, facts in attends(op):
            for width in line_widths(attend) if attend.tiles is None else ():
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
    found = lined(op, width, facts)
    if found is None:
        return None
    domain, rows, sources = found
    return op.rebuilt(dims=domain, sources=sources, **moved_maps(op, domain, rows, facts))


def line_widths(op: attn.Attention) -> list[int]:
    """Widths of images that the masks may be about."""
    row = op.domain[-1].name
    return widths([s.mask for s in op.source_list], lambda x: row in free_vars(x))


def in_lines(op: attn.Attention) -> list[Work]:
    """The attention as the cost model sees it with its rows in lines, for every width that these may have."""
    found = [lined(op, width, ()) for width in line_widths(op)]
    work = work_of(op)
    return [dataclasses.replace(work, domain=f[0], sources=f[2]) for f in found if f is not None]


def lined(
    op: attn.Attention, width: int, facts: tuple[Expr, ...]
) -> tuple[tuple[Dim, ...], dict[str, Expr], tuple[attn.Source, ...]] | None:
    """The domain with its rows in lines of ``width``, what the row is in it, and the sources; None if it is ragged."""
    *batch, row = op.domain
    if free_vars(row.extent) & {d.name for d in batch}:
        return None
    line, part = line_of(row, width, fresh("y", op))
    domain = (*batch, line, part)
    rows = {row.name: Var(line.name) * width + Var(row.name)}
    return domain, rows, tuple(moved(s, domain, s.extent, rows, facts) for s in op.source_list)


def line_of(dim: Dim, width: int, name: str) -> tuple[Dim, Dim]:
    """The dimension ``name`` that counts lines of ``width``, and what is left of ``dim`` in each."""
    line = Dim(name, ceildiv(dim.extent, width))
    return line, Dim(dim.name, minimum(Const(width), dim.extent - Var(name) * width))
