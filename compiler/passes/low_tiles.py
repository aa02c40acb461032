"""Tiles of few queries, though more than one: the lowest that holds them all.

A tile as high as registers like best would compute rows that are not there: of 10 learned queries 54 more.  Sizes are
symbols, so each height that a call may need gets a plan of its own, by its guards.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir import attn
from ...ir.expr import Const, Expr
from ..analysis.cost import NOMINAL_LENGTH, Device, timings
from .common import work_of
from .few_rows import MOST_ROWS, at_least, at_most, count_of


def low_tile(
    attend: attn.AttendOp, facts: tuple[Expr, ...], sizes: Mapping[str, int], on: Device
) -> tuple[tuple[int, int] | None, list[Expr]]:
    """The tile for a call of these sizes, None if it has many queries; and what that relies on."""
    *batch, row = attend.domain
    found = None if on.is_gpu else count_of(row.extent, batch, sizes)
    if found is None or found[1] < 2 or isinstance(found[0], Const):
        return None, []
    extent, count = found
    times = timings(work_of(attend, facts), on, NOMINAL_LENGTH)
    heights = sorted({rows for rows, _ in times})
    low = [h for h in heights[:-1] if h <= MOST_ROWS]  # all calls may have the highest
    below = max((h for h in low if h < count), default=1)
    fits = min((h for h in low if count <= h), default=None)
    if fits is None:
        return None, [at_least(extent, below + 1)]
    tiles = min((t for t in times if t[0] == fits), key=lambda t: (times[t], t))
    return tiles, [at_least(extent, below + 1), at_most(extent, fits)]
