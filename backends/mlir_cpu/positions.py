"""Indices of rows that memory does not hold at a constant distance, such as those of a window of an image.

An index like ``(i // 7 + g // 8 * 7 + 3) % R`` takes divisions, and queries, keys, values and gradients are often all
read at the same ones.  So they are computed once for each tile, into scratch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...ir.expr import Expr, free_vars
from .builder import ELEMENT_BYTES, Val
from .frame import Frame
from .memory import coefficient


def tabulate(f: Frame, index: Sequence[Expr], axis: str, size: int, others: Collection[str]) -> None:
    """Compute those of ``index`` that are not affine in ``axis``, once; ``others`` are the other axes of the tile."""
    if axis not in f.spans:
        return
    span, b = f.spans[axis], f.b
    todo = [e for e in index if coefficient(e, axis) is None and not free_vars(e) & set(others)]
    todo = [e for e in dict.fromkeys(todo) if (axis, e) not in f.positions]
    if not todo:
        return
    size, x = -(-size // f.lanes) * f.lanes, f.expressions
    tables = [b.room(size * ELEMENT_BYTES["i64"], f"positions{len(f.positions) + n}_{size}") for n in range(len(todo))]
    with b.loop(0, span.count, f.lanes, hint=axis) as row:
        first = b.broadcast(b.cast("trunci", b.add(span.start, row.iv), "i32"), f.lanes)
        scope = f.scalar_scope({axis: b.binary("addi", first, b.iota(first.type))})
        for e, table in zip(todo, tables, strict=True):
            b.store(x.as_int(x.emit(e, scope), 64), b.at(table, row.iv, "i64"))
    f.positions.update({(axis, e): table for e, table in zip(todo, tables, strict=True)})


def position(f: Frame, e: Expr, at: dict[str, Val]) -> Val | None:
    """The value of an index that was tabulated, with axes given by global index; None for others."""
    for axis, value in at.items():
        if (table := f.positions.get((axis, e))) is not None:
            return f.b.load(f.b.at(table, f.b.sub(value, f.spans[axis].start), "i64"), "i64")
    return None
