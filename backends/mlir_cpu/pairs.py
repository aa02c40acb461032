"""Products of bf16 tiles by the instruction that multiplies pairs of them, without loss: ``vdpbf16ps``.

Features that are neighbours in memory form pairs of 32 bits.  Both operands of such a dot come from memory: the
one with rows in the lanes keeps its pairs when it is transposed, and the other is not even widened.
"""

from __future__ import annotations

from xdsl.dialects.builtin import BFloat16Type
from xdsl.ir import SSAValue

from ...ir.tile import DotOp, LoadOp, memory_type, tile_type
from .builder import Builder, Val
from .memory import coefficient


def is_paired(dot: DotOp, rows: str) -> bool:
    """Does the dot multiply pairs?"""
    lanes, _ = operands(dot, rows)
    return _may_pair(dot, rows) and isinstance(lanes.owner, LoadOp) and keeps_pairs(lanes.owner, rows)


def keeps_pairs(load: LoadOp, rows: str) -> bool:
    """Does a tile with rows in the lanes hold pairs?  It does if all that reads it there can use them."""
    dots = [use.operation for use in load.result.uses]
    dots = [op for op in dots if not (isinstance(op, DotOp) and op.contracted == rows)]
    return bool(dots) and all(isinstance(op, DotOp) and _may_pair(op, rows) for op in dots)


def add_pairs(b: Builder, x: Val, y: Val, acc: Val) -> Val:
    """``acc`` and, in each lane, the sum of the products of a pair of ``x`` and one of ``y``."""
    return b.intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", [acc, x, y], acc.type)


def interleaved(b: Builder, x: Val, y: Val) -> tuple[Val, Val]:
    """Pairs of the elements of two vectors: those of their first halves, and of their last."""
    n = x.lanes
    low = [k // 2 + k % 2 * n for k in range(n)]
    return b.shuffle(x, y, low), b.shuffle(x, y, [k + n // 2 for k in low])


def operands(dot: DotOp, rows: str) -> tuple[SSAValue, SSAValue]:
    """The operand with rows in the lanes and the one that is broadcast."""
    return (dot.lhs, dot.rhs) if rows in tile_type(dot.lhs).shape else (dot.rhs, dot.lhs)


def _may_pair(dot: DotOp, rows: str) -> bool:
    lanes, other = operands(dot, rows)
    loads = [v.owner for v in (lanes, other) if isinstance(v.owner, LoadOp)]
    if len(loads) < 2 or rows in tile_type(other).shape or dot.acc is lanes:
        return False
    narrow = all(isinstance(memory_type(op.memory).element, BFloat16Type) for op in loads)
    even = tile_type(other).shape[dot.contracted] % 2 == 0
    last = list(tile_type(other).shape)[-1] == dot.contracted
    affine = all(coefficient(e, axis) is not None for e in loads[1].index.data for axis in tile_type(other).shape)
    return narrow and even and last and affine
