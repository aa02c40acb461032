"""The matrix registers of AMX: eight tiles of 16 rows of 64 bytes.

A block is 16 by 32 f32 in two tiles.  Larger ones load less for each product, but products seem limited by how many
registers there are to rename these eight to: sometimes few, and then one instruction waits for the other.  Setting a
register to zero gives its physical one back, so every register is zero whenever it is not in use.  Against blocks of 32
by 32 this halves the time of a product where registers are scarce, and takes no longer where they are not.  Where few
terms are summed, as in scores, the right operands of a column of blocks stay in registers: a third of the loads.

A load costs half as much as a product, a store as much as one, and a row that crosses a cache line three times that;
so operands in scratch are aligned, and blocks sum as many terms as there are before they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .builder import Builder, Val

ROWS, ROW_BYTES = 16, 64
TILE_BYTES = ROWS * ROW_BYTES
LAST = 7  # number of a register
HELD = 2  # pairs of operands that fit beside the registers of a block


class Tile(NamedTuple):
    """Where a tile is in memory, and how many bytes lie between its rows."""

    pointer: Val
    stride: Val


Left = Callable[[Val], Tile]  # the left operand of a term, which sums SIDE products
Pair = tuple[Tile, Tile]
Right = Callable[[Val], Pair]
Blocks = Callable[[Val], Pair]


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


def block(b: Builder, terms: Val | int, left: Left, right: Right, start: Pair | None, result: Pair) -> None:
    """``result = start + sum over terms of left . right``; two tiles, side by side."""
    for n, tile in enumerate(start or ()):
        _call(b, "tileloadd64", _number(b, n), *tile)
    with b.loop(0, terms, 1, hint="term") as loop:
        _call(b, "tileloadd64", _number(b, 2), *left(loop.iv))
        for n, tile in enumerate(right(loop.iv)):
            _call(b, "tileloadd64", _number(b, 3 + n), *tile)
            _call(b, "tdpbf16ps", _number(b, n), _number(b, 2), _number(b, 3 + n))
            _free(b, 3 + n)
        _free(b, 2)
    for n, tile in enumerate(result):
        _call(b, "tilestored64", _number(b, n), *tile)
        _free(b, n)


def blocks(b: Builder, count: Val | int, left: Callable[[Val], Left], rights: Sequence[Pair], result: Blocks) -> None:
    """``result(row) = sum over terms of left(row) . right`` for rows of blocks; right operands stay in registers."""
    held = [range(LAST - 2 * n - 1, LAST - 2 * n + 1) for n in range(len(rights))]
    for numbers, pair in zip(held, rights, strict=True):
        for n, tile in zip(numbers, pair, strict=True):
            _call(b, "tileloadd64", _number(b, n), *tile)
    with b.loop(0, count, ROWS, hint="row") as loop:
        terms = left(loop.iv)
        for term, numbers in enumerate(held):
            _call(b, "tileloadd64", _number(b, 2 + term % 2), *terms(b.integer(term)))
            for n, right in enumerate(numbers):
                _call(b, "tdpbf16ps", _number(b, n), _number(b, 2 + term % 2), _number(b, right))
            _free(b, 2 + term % 2)
        for n, tile in enumerate(result(loop.iv)):
            _call(b, "tilestored64", _number(b, n), *tile)
            _free(b, n)
    for numbers in held:
        for n in numbers:
            _free(b, n)


def _free(b: Builder, n: int) -> None:
    _call(b, "tilezero", _number(b, n))


def beside(b: Builder, pointer: Val, stride: int) -> Pair:
    """Two tiles side by side in scratch, whose rows are ``stride`` bytes apart."""
    step = b.integer(stride)
    return Tile(pointer, step), Tile(b.at(pointer, ROW_BYTES, "i8"), step)


def _number(b: Builder, n: int) -> Val:
    return b.integer(n, "i8")


def _call(b: Builder, name: str, *args: Val) -> None:
    values, types = ", ".join(a.ssa for a in args), ", ".join(a.type for a in args)
    b.line(f'llvm.call_intrinsic "llvm.x86.{name}"({values}) : ({types}) -> ()')
