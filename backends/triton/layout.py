"""Axes as Triton sees them: sizes are 1 or powers of two of at least 16, so an axis may hold dead elements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xdsl.ir import Attribute

from ...ir.dtypes import name_of
from ...ir.expr import Const, Expr, Op, Var
from ...ir.tile import ForOp, KernelOp, LoadOp, StoreOp, tile_type
from .facts import divisible

LEAST = 16  # tl.dot takes no smaller side

# element type -> (Triton's name, name in a signature of triton.compile)
DTYPES = {
    "f64": ("tl.float64", "fp64"), "f32": ("tl.float32", "fp32"), "bf16": ("tl.bfloat16", "bf16"),
    "f16": ("tl.float16", "fp16"), "i64": ("tl.int64", "i64"), "i32": ("tl.int32", "i32"), "i16": ("tl.int16", "i16"),
    "i8": ("tl.int8", "i8"), "ui8": ("tl.uint8", "u8"), "i1": ("tl.int1", "i1"),
}  # fmt: skip


def dtype(element: Attribute) -> str:
    """Triton's name of an element type."""
    return DTYPES[name_of(element)][0]


def padded(size: int) -> int:
    """The tile size that holds ``size`` elements; a single one needs no matrix unit."""
    return 1 if size == 1 else max(LEAST, 1 << (size - 1).bit_length())


def padded_shape(shape: Mapping[str, int]) -> str:
    return f"[{', '.join(str(padded(n)) for n in shape.values())}]"


@dataclass(frozen=True)
class AxisCode:
    """An axis in the printed kernel: its index vector, and the condition that an element is live, if any is not."""

    index: str
    live: str | None
    wide: bool = False  # the index vector holds 64-bit integers
    end: str = ""  # elements before it are live


def axis_sizes(kernel: KernelOp) -> dict[str, int]:
    """Feature axes and their sizes: the axes of loads that are neither rows nor a loop's keys."""
    other = {kernel.rows.data.name} | {op.axis.data for op in kernel.body.walk() if isinstance(op, ForOp)}
    found: dict[str, int] = {}
    for op in kernel.body.walk():
        if isinstance(op, LoadOp | StoreOp):
            shape = tile_type(op.result if isinstance(op, LoadOp) else op.value).shape
            found |= {a: n for a, n in shape.items() if a not in other}
    return found


def axis_order(kernel: KernelOp) -> dict[str, int]:
    """The place of each axis in printed tiles: rows, then loops, then features.

    So a product's rows are the kernel's rows, whichever way the program names its axes, and its result feeds the
    next product without a transposition.
    """
    loops = dict.fromkeys(op.axis.data for op in kernel.body.walk() if isinstance(op, ForOp))
    axes = dict.fromkeys([kernel.rows.data.name, *loops, *sorted(axis_sizes(kernel))])
    return {axis: n for n, axis in enumerate(axes)}


def rows_always_live(kernel: KernelOp) -> bool:
    """Does every row tile end at or before the bound, whatever the sizes?"""
    rows = kernel.rows.data
    if padded(rows.size) != rows.size or not isinstance(rows.bound, Const) or not divisible(rows.bound, rows.size):
        return False
    if rows.base == Const(0):
        return rows.bound.value == rows.size
    match rows.base:
        case Op("*", (Var(t), Const(rows.size))) | Op("*", (Const(rows.size), Var(t))):
            tiles: Expr | None = next((d.extent for d in kernel.grid.data if d.name == t), None)
            return tiles == Const(rows.bound.value // rows.size)
    return False
