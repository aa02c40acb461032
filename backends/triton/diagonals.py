"""Sums over the diagonals of a tile: for tables that pairs read by the distance of row and key, as relative biases are.

All pairs of a diagonal have one address.  Turned by one place for each row, the tile has its diagonals in columns, and
all of them are summed at once; a column holds two, for what leaves the tile on one side comes in on the other::

    turned = tl.gather(ds, (rows[:, None] - cols[None, :]) & 63, 1)
    near = tl.sum(tl.where(rows[:, None] >= cols[None, :], turned, 0.0), 0)    distances from i - start upwards
    far = tl.sum(tl.where(rows[:, None] < cols[None, :], turned, 0.0), 0)      and 64 less
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir import poly
from ...ir.expr import Expr, Var, free_vars, kind_of, loads, rewrite
from ...ir.tile import ForOp, StoreOp
from .layout import AxisCode, padded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .emit import Emitter

DISTANCE = "row_less_key"


def by_distance(op: StoreOp, shape: Mapping[str, int], row: str) -> tuple[Expr, ...] | None:
    """The index of a store as a function of the distance alone; None where it is not one, or not of two axes."""
    loop = op.parent_op()
    if not isinstance(loop, ForOp) or list(shape) != [row, loop.axis.data] or 1 in shape.values():
        return None
    if any(loads(e) for e in op.index.data):
        return None
    key = loop.axis.data
    found = tuple(rewrite(e, lambda x: _distance(x, row, key)) for e in op.index.data)
    return None if any(free_vars(e) & {row, key} for e in found) else found


def _distance(e: Expr, row: str, key: str) -> Expr | None:
    """A multiple of the distance and something else, said by the distance."""
    if kind_of(e) != "int" or not {row, key} <= free_vars(e):
        return None
    first = poly.split_linear(poly.of_expr(e), Var(row))
    second = poly.split_linear(first[1], Var(key)) if first else None
    if first is None or second is None or poly.add(first[0], second[0]):
        return None
    if any(free_vars(a) & {row, key} for p in (first[0], second[1]) for a in poly.atoms(p)):
        return None
    return poly.to_expr(poly.add(poly.multiply(first[0], {(Var(DISTANCE),): 1}), second[1]))


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
