"""The choices that a kernel leaves open, as data: which tiles an attention may have on a device."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ...ir.attn import Source
from ...ir.errors import AttncError
from ...ir.expr import Const, free_vars, loads
from .devices import ELEMENT_BYTES, Device
from .work import Work

FORWARD, GRADIENT = "choice", "gradient_choice"  # options of ``attnc.compile`` that force choices
MOST = 1024  # rows, or keys, of a tile
SIDE = 32  # rows of a strip, and the least of a tile, on matrix registers
STACK = 2 << 20  # bytes of the least stack that a thread has
MOST_SCRATCH = 3 << 19  # bytes of a kernel's scratch, by an estimate


class ChoiceError(AttncError):
    """The text of a choice that cannot be read, or that no kernel can have."""


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """The tile of one attention: ``rows`` of a task and the step of its loop, ``keys``.

    In a gradient, rows are queries or keys, and the loop walks the other ones.
    """

    rows: int
    keys: int

    @property
    def tiles(self) -> tuple[int, int]:
        return self.rows, self.keys

    def __str__(self) -> str:
        return f"rows={self.rows},keys={self.keys}"

    @staticmethod
    def read(text: str) -> Choice:
        """Read :meth:`__str__`, with any spaces.  Raises :class:`ChoiceError`."""
        found = re.fullmatch(r"\s*rows\s*=\s*(\d+)\s*,\s*keys\s*=\s*(\d+)\s*", text)
        if found is None:
            raise ChoiceError(f"cannot read the choice {text!r}; write it as 'rows=64,keys=96'")
        choice = Choice(int(found[1]), int(found[2]))
        if not (0 < choice.rows <= MOST and 0 < choice.keys <= MOST):
            raise ChoiceError(f"no tile has {choice}; rows and keys go from 1 to {MOST}")
        return choice


LEAST = Choice(16, 16)  # where nothing else fits; 16 is a vector of the widest machine


def text_of(choices: Iterable[Choice]) -> str:
    """The value of an option: one choice for each attention of a program, in order; or one for all of them."""
    return "; ".join(map(str, choices))


def read_choices(text: str) -> tuple[Choice, ...]:
    """Read :func:`text_of`; none for an empty text."""
    return tuple(Choice.read(part) for part in text.split(";")) if text.strip() else ()


def candidates(work: Work, on: Device, gradient: bool = False) -> tuple[Choice, ...]:
    """What a device can hold, all different; the cost model says which is best."""
    tiles = _gradient_tiles(work, on) if gradient else _tiles(work, on)
    found = [Choice(*t) for t in dict.fromkeys(tiles)]
    if not on.is_gpu:
        found = [c for c in found if _on_stack(work, c, gradient) <= STACK]
    return tuple(found) or (LEAST,)


def _on_stack(work: Work, choice: Choice, gradient: bool) -> int:
    """About the bytes of a CPU's task: tiles as wide as the features, of which a kernel holds some at once."""
    copies = 6 if gradient else 3
    return (copies * choice.rows + choice.keys) * 8 * max(work.width, work.value_width)


def lanes_of(on: Device, dtype: str) -> int:
    """Elements of a vector as a CPU computes them: halves are widened."""
    return on.lanes // 2 if dtype == "f64" else on.lanes


def converts(on: Device, dtype: str) -> bool:
    """Are keys widened before a CPU multiplies them, once for each tile of queries?"""
    return not on.is_gpu and ELEMENT_BYTES[dtype] == 2 and on.peak[dtype] == on.peak["f32"]


def on_matrix(on: Device, dtype: str) -> bool:
    """Do products run on a CPU's matrix registers?"""
    return on.matrix and dtype == "bf16"


def padded(width: int) -> int:
    """Features as a matrix unit sees them."""
    return max(16, 1 << (width - 1).bit_length())


def _tiles(work: Work, on: Device) -> Iterator[tuple[int, int]]:
    if on.is_gpu:
        yield from _gpu_tiles(work, on)
    elif on_matrix(on, work.dtype):
        yield from _matrix_tiles((256, 128, 64, 32), (256, 128, 64, 32), lambda *t: _scratch(work, *t))
    else:
        # queries fill several vector registers, fewer where bands are narrow, more where keys have to be converted
        wide = [2 * on.vectors] if converts(on, work.dtype) else []
        yield from _cpu_tiles(work, on, (on.vectors, *wide, 2, 1), (32, 16, 8, 4))


def _gradient_tiles(work: Work, on: Device) -> Iterator[tuple[int, int]]:
    if on.is_gpu:
        rows, step = largest_gradient_tile(work, on)
        sizes = (128, 64, 32, 16)
        yield from itertools.product([n for n in sizes if n <= rows], [n for n in sizes if n <= step])
    elif on_matrix(on, work.dtype):
        yield from _matrix_tiles((256, 128, 64, 32), (128, 64, 32), lambda *t: _gradient_scratch(work, *t))
    else:
        wide = [2 * on.vectors] if converts(on, work.dtype) else []
        yield from _cpu_tiles(work, on, (on.vectors, *wide, 2, 1), (16, 8, 4))


def _matrix_tiles(
    rows: Iterable[int], keys: Iterable[int], scratch: Callable[[int, int], int]
) -> Iterator[tuple[int, int]]:
    """Tiles whose scratch fits a thread's stack; the smallest in any case."""
    for tiles in itertools.product(rows, keys):
        if scratch(*tiles) <= MOST_SCRATCH or tiles == (SIDE, SIDE):
            yield tiles


def _scratch(work: Work, rows: int, keys: int) -> int:
    """About the bytes that a kernel on matrix registers keeps: queries, sums, and keys and values as operands."""
    return 2 * rows * work.width + 4 * (rows + 16) * work.value_width + 4 * keys * (work.width + work.value_width)


def _gradient_scratch(work: Work, rows: int, step: int) -> int:
    """The same for a gradient: two sums, four tiles of pairs, and every operand in two forms."""
    widths = work.width + work.value_width
    return 4 * (rows + 16) * widths + 16 * step * (rows + 16) + 4 * (rows + step) * widths


def _cpu_tiles(work: Work, on: Device, vectors: Iterable[int], blocks: Iterable[int]) -> Iterator[tuple[int, int]]:
    element = 8 if work.dtype == "f64" else 4
    for wide, high in itertools.product(vectors, blocks):
        rows, keys = wide * lanes_of(on, work.dtype), high * on.height
        if rows * keys * element <= on.fast * 2 // 3:  # scores are not alone there
            yield rows, keys


def _gpu_tiles(work: Work, on: Device) -> Iterator[tuple[int, int]]:
    size = ELEMENT_BYTES[work.dtype]
    width, value_width = padded(work.width), padded(work.value_width)
    most_rows, most_keys = _plain_tile(work.dtype, max(width, value_width), on)
    reads = max((_read_bytes(s, work.domain[-1].name) for s in work.sources), default=0)
    for rows, keys in itertools.product((128, 64, 32, 16), (128, 64, 32, 16)):
        if rows > most_rows or keys > most_keys:
            continue
        shared = (rows * width + 2 * keys * (width + value_width)) * size  # keys and values are fetched ahead
        accumulators = rows * (value_width + keys) * max(4, size)
        held = accumulators + (rows * keys * size if on.operands else 0)
        # by what the assemblers say; a task of fewer rows has half the warps, and so half the registers
        share = 1 if rows >= 128 else 2
        if reads and held + rows * keys * reads > (160 << 10) // share:
            continue
        if shared <= on.fast and held <= on.registers and (share == 1 or accumulators < 64 << 10):
            yield rows, keys


def _read_bytes(source: Source, row: str) -> int:
    """Bytes of registers that a pair takes while a captured tensor is read for it: an address, and what leads to it."""
    pair, most = {row, source.key}, 0
    for load in (*loads(source.score.body), *loads(source.mask)):
        axes = [free_vars(e) & pair for e in load.index]
        if any(axis == pair for axis in axes):
            most = max(most, 10)
        elif set().union(*axes) == pair:
            most = max(most, 8)
    return most


def _plain_tile(dtype: str, width: int, on: Device) -> tuple[int, int]:
    """The largest tile whose products fit registers when plain multiply-adds compute them (f32 and f64)."""
    if dtype in ("f16", "bf16"):
        return 128, 128
    rows, keys, at = (64, 32, 128) if dtype == "f32" else (32, 32, 64)
    if _multiplies_alone(dtype, on):
        at = 64
    shrink = max(1, width // at)
    return max(16, rows // shrink), max(16, keys // shrink)


def _multiplies_alone(dtype: str, on: Device) -> bool:
    """Are products plain multiply-adds, which have rows of both operands in registers, as wide as the features?"""
    return dtype in ("f32", "f64") and on.name.startswith("sm_")


# The largest tiles whose four products stay in registers, by what the assemblers say: widths up to 64, up to 128.
_HALF_GRADIENT = {
    "sm_80": ((32, 32), (32, 32)),
    "sm_90": ((128, 32), (128, 32)),
    "sm_100": ((64, 64), (64, 32)),
    "gfx942": ((64, 32), (32, 16)),
}


def largest_gradient_tile(work: Work, on: Device) -> tuple[int, int]:
    """The largest tile for gradients on a GPU: rows of a task, step of its loop."""
    widest = max(work.width, work.value_width)
    if work.dtype in ("f16", "bf16") and widest <= 128:
        rows, step = _HALF_GRADIENT[on.name][widest > 64]
        group = _largest_group(work)
        return min(rows, group), min(step, group)
    size = ELEMENT_BYTES[work.dtype]
    rows = step = 16 if _multiplies_alone(work.dtype, on) and padded(widest) * size > 256 else 32
    widths = sum(padded(w) for w in (work.width, work.value_width))
    while True:
        shared = (rows + 2 * step) * widths * size  # two tensors are held, the other two fetched ahead
        accumulators = rows * (widths + 2 * step) * max(4, size)
        if (shared <= on.fast and accumulators <= on.registers) or (rows, step) == (16, 16):
            return rows, step
        rows, step = (rows, step // 2) if step > 16 else (rows // 2, step)


def _largest_group(work: Work) -> int:
    """Rows of a tile that holds all queries, or all keys, of a group of constant size; no limit where it grows."""
    extents = [work.domain[-1].extent, *(s.extent for s in work.sources)]
    return max(padded(int(e.value)) if isinstance(e, Const) else 1 << 30 for e in extents)
