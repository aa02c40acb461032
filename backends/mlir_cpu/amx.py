"""The matrix registers of AMX: eight tiles of 16 rows of 64 bytes.

A block is 32 by 32 f32 in four tiles, the largest with which all eight are used: two loads on either side feed four
products.  A load costs half as much as a product, a store as much as one, and a row that crosses a cache line three
times that; so operands in scratch are aligned, and blocks sum as many terms as there are before they are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .builder import Builder, Val

ROWS, ROW_BYTES = 16, 64
TILE_BYTES = ROWS * ROW_BYTES


class Tile(NamedTuple):
    """Where a tile is in memory, and how many bytes lie between its rows."""

    pointer: Val
    stride: Val


Operand = Callable[[Val], tuple[Tile, Tile]]  # the two tiles of an operand for a term, which sums SIDE products


def configure(b: Builder) -> Val:
    """All tiles at full size, for this thread.  Results too small for a normal number become 0, as they do in tiles.

    Returns what :func:`release` needs.
    """
    memory = b.alloca(64, "tile_config")
    words = [1, 0, *[0x0040_0040_0040_0040] * 2, 0, 0, 0x1010_1010_1010_1010, 0]  # palette; bytes a row; rows
    for n, word in enumerate(words):
        b.store(b.integer(word), b.at(memory, n, "i64"))
    _call(b, "ldtilecfg", memory)
    control = b.alloca(64, "control")
    _call(b, "sse.stmxcsr", control)
    flush = b.at(control, 1, "i32")
    b.store(b.binary("ori", b.load(control, "i32"), b.integer(0x8000, "i32")), flush)
    _call(b, "sse.ldmxcsr", flush)
    return control


def release(b: Builder, control: Val) -> None:
    """Back to the state before: thread switches are cheap again."""
    _call(b, "tilerelease")
    _call(b, "sse.ldmxcsr", control)


def block(
    b: Builder, terms: Val | int, left: Operand, right: Operand, start: list[Tile] | None, result: list[Tile]
) -> None:
    """``result = start + sum over terms of left . right``; four tiles in row-major order."""
    for n in range(4):
        if start is None:
            _call(b, "tilezero", _number(b, n))
        else:
            _call(b, "tileloadd64", _number(b, n), *start[n])
    with b.loop(0, terms, 1, hint="term") as loop:
        for n, tile in enumerate((*left(loop.iv), *right(loop.iv))):
            _call(b, "tileloadd64", _number(b, 4 + n), *tile)
        for n in range(4):
            _call(b, "tdpbf16ps", _number(b, n), _number(b, 4 + n // 2), _number(b, 6 + n % 2))
    for n, tile in enumerate(result):
        _call(b, "tilestored64", _number(b, n), *tile)


def quarters(b: Builder, pointer: Val, stride: int) -> list[Tile]:
    """The four tiles of a block of f32 in scratch."""
    step = b.integer(stride)
    return [Tile(b.at(pointer, n // 2 * ROWS * stride + n % 2 * ROW_BYTES, "i8"), step) for n in range(4)]


def halves(b: Builder, pointer: Val, stride: Val, apart: Val | int) -> tuple[Tile, Tile]:
    """Two tiles ``apart`` bytes from each other."""
    return Tile(pointer, stride), Tile(b.at(pointer, apart, "i8"), stride)


def _number(b: Builder, n: int) -> Val:
    return b.integer(n, "i8")


def _call(b: Builder, name: str, *args: Val) -> None:
    values, types = ", ".join(a.ssa for a in args), ", ".join(a.type for a in args)
    b.line(f'llvm.call_intrinsic "llvm.x86.{name}"({values}) : ({types}) -> ()')
