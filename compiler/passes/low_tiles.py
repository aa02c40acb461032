"""Tiles of few queries, though more than one: the lowest that holds them all.

A tile as high as registers like best would compute rows that are not there: of 10 learned queries 54 more.  Sizes are
symbols, so each height that a call may need gets a plan of its own, by its guards.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir import attn
from ...ir.expr import Const, Expr
from ..analysis.cost import NOMINAL_LENGTH, choose_tiles, device, timings
from .common import work_of
from .few_rows import MOST_ROWS, at_least, at_most, count_of


def low_tile(
    attend: attn.AttendOp, facts: tuple[Expr, ...], sizes: Mapping[str, int], target: str
) -> tuple[tuple[int, int] | None, list[Expr]]:
    """The tile for a call of these sizes, None if it needs none lower than others; and what that relies on."""
    *batch, row = attend.domain
    found = None if device(target).is_gpu else count_of(row.extent, batch, sizes)
    if found is None or found[1] < 2 or isinstance(found[0], Const):
        return None, []
    extent, count = found
    work = work_of(attend, facts)
    times, most = timings(work, device(target), NOMINAL_LENGTH), choose_tiles(work, target)[0]
    low = sorted({rows for rows, _ in times if rows < most and rows <= MOST_ROWS})
    below = max((rows for rows in low if rows < count), default=1)
    fits = min((rows for rows in low if count <= rows), default=None)
    if fits is None:
        return None, [at_least(extent, below + 1)] if low else []
    tiles = min((t for t in times if t[0] == fits), key=lambda t: (times[t], -t[1]))
    return tiles, [at_least(extent, below + 1), at_most(extent, fits)]
