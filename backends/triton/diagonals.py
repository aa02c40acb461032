"""Sums over the diagonals of a tile: for tables that pairs read by the distance of row and key, as relative biases are.

All pairs of a diagonal have one address.  Turned by one place for each row, the tile has its diagonals in columns, and
all of them are summed at once; a column holds two, for what leaves the tile on one side comes in on the other::

    turned = tl.gather(ds, (rows[:, None] - cols[None, :]) & 63, 1)
    near = tl.sum(tl.where(rows[:, None] >= cols[None, :], turned, 0.0), 0)    distances from i - start upwards
    far = tl.sum(tl.where(rows[:, None] < cols[None, :], turned, 0.0), 0)      and 64 less
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.distance import DISTANCE
from ...ir.distance import by_distance as distances
from ...ir.expr import Expr, loads
from ...ir.tile import ForOp, StoreOp
from .layout import AxisCode, padded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .emit import Emitter


def by_distance(op: StoreOp, shape: Mapping[str, int], row: str) -> tuple[Expr, ...] | None:
    """The index of a store as a function of the distance alone; None where it is not one, or not of two axes."""
    loop = op.parent_op()
    if not isinstance(loop, ForOp) or list(shape) != [row, loop.axis.data] or 1 in shape.values():
        return None
    if any(loads(e) for e in op.index.data):
        return None
    return distances(op.index.data, row, loop.axis.data)


def sums(emitter: Emitter, value: str, shape: Mapping[str, int], memory: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Print both sums; while each is at hand, the axis :data:`DISTANCE` stands for its distances."""
    axes = list(shape)
    height, width = (padded(n) for n in shape.values())
    rows, cols, turned = (emitter.names.fresh(f"{memory}_{x}") for x in ("rows", "cols", "turned"))
    live = emitter.live(axes)
    emitter.line(f"{rows} = tl.arange(0, {height})[:, None]")
    emitter.line(f"{cols} = tl.arange(0, {width})[None, :]")
    source = f"tl.where({live}, {value}, 0.0)" if live else value
    size = max(height, width)
    if width == size:
        emitter.line(f"{turned} = tl.gather({source}, ({rows} - {cols}) & {size - 1}, 1)")
        near, far, over = f"{rows} >= {cols}", f"{rows} < {cols}", 0
    else:
        emitter.line(f"{turned} = tl.gather({source}, ({rows} + {cols}) & {size - 1}, 0)")
        near, far, over = f"{rows} + {cols} < {size}", f"{rows} + {cols} >= {size}", 1
    base = emitter.scalar(emitter.kernel.rows.data.base)
    emitter.order[DISTANCE] = len(emitter.order)
    for name, pairs, less in (("near", near, ""), ("far", far, f" - {size}")):
        total, distance = emitter.names.fresh(f"{memory}_{name}"), emitter.names.fresh("distance")
        emitter.line(f"{total} = tl.sum(tl.where({pairs}, {turned}, 0.0), {over})")
        emitter.line(f"{distance} = {base.at_least(9)} - {emitter.addresses.start}{less} + tl.arange(0, {size})")
        emitter.axes[DISTANCE] = AxisCode(distance, f"{total} != 0.0")
        yield total, {DISTANCE: size}
    del emitter.axes[DISTANCE], emitter.order[DISTANCE]
