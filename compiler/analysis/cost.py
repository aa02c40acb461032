"""What a device is good at, and how long attention of a given size takes on it: the first cost model.

Time is the larger of arithmetic and memory traffic, plus a fixed price per step of a key loop.  It ranks choices; it
does not predict microseconds.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ...ir.attn import Source
from ...ir.attributes import Dim
from ...ir.errors import AttncError
from ...ir.expr import Expr, free_vars, loads
from .live_area import computed_pairs, nominal_sizes

NOMINAL_LENGTH = 8192  # rows and keys assumed when weighing choices: sizes are symbols when a kernel is compiled
NARROW = 0.9  # of the pairs of a tile are computed at most, where its strips mostly differ in the keys that they see
STRIP = 32  # rows of a tile that are computed at a time where a CPU has matrix registers
EXPONENTIAL = 16  # what one costs in multiply-adds
_BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2}


class UnknownTargetError(AttncError):
    """A target name that no device has."""


@dataclass(frozen=True, slots=True)
class Device:
    """One core of a CPU, or one multiprocessor of a GPU.

    ``peak`` is multiply-adds per second by dtype; ``fast`` is the size in bytes of the memory that a tile must
    fit in (level-1 cache, or shared memory); ``step`` is the price in seconds of one step of a key loop.
    """

    name: str
    lanes: int  # 32-bit lanes of a vector register (CPU); 0 on a GPU
    peak: dict[str, float]
    bandwidth: float
    fast: int
    registers: int  # bytes of accumulators that fit registers
    step: float
    vectors: int = 0  # lane vectors of a tile of queries that registers like best (CPU)
    matrix: bool = False  # a CPU with matrix registers for bf16
    height: int = 4  # keys of a register block as wide as the tile (CPU): steps are multiples of it
    processors: int = 1  # multiprocessors of a GPU
    operands: bool = False  # a GPU where scores and the probabilities made of them are in registers at once

    @property
    def is_gpu(self) -> bool:
        return not self.lanes

    def __hash__(self) -> int:
        return hash(self.name)


def _cpu(
    name: str, lanes: int, fast: int, bf16: float = 1.0, vectors: int = 4, matrix: bool = False, height: int = 4
) -> Device:
    f32 = lanes * 2 * 2.5e9  # two multiply-add units
    peak = {"f32": f32, "f64": f32 / 2, "bf16": f32 * bf16, "f16": f32}
    return Device(name, lanes, peak, 8e9, fast, 32 * lanes * 4, 60e-9, vectors, matrix, height)


def _gpu(
    name: str,
    half: float,
    single: float,
    double: float,
    bandwidth: float,
    cores: int,
    fast: int,
    operands: bool = False,
) -> Device:
    peak = {"f16": half, "bf16": half, "f32": single, "f64": double}
    each = {k: v / 2 / cores for k, v in peak.items()}
    registers = (112 if operands else 128) << 10
    return Device(name, 0, each, bandwidth / cores, fast, registers, 400e-9, processors=cores, operands=operands)


DEVICES = {
    d.name: d
    for d in (
        _cpu("cpu-avx512", 16, 48 << 10, height=6),
        _cpu("cpu-avx512-bf16", 16, 48 << 10, bf16=2.0),
        _cpu("cpu-avx512-amx", 16, 48 << 10, bf16=8.0, matrix=True, height=6),
        # of 16 registers, blocks of 3 vectors and 4 rows fill all; blocks of 2 and 6 take 10 % longer
        _cpu("cpu-avx2", 8, 32 << 10, vectors=3),
        _cpu("cpu-neon", 4, 64 << 10),
        _cpu("cpu-generic", 4, 32 << 10),
        # peak rates of the whole device: matrix units for halves, plain multiply-adds for f32 and f64, whose
        # products must not lose bits; then memory bandwidth, multiprocessors, shared memory of one
        _gpu("sm_80", 312e12, 19.5e12, 9.7e12, 2.0e12, 108, 163 << 10, operands=True),
        _gpu("sm_90", 990e12, 67e12, 34e12, 3.35e12, 132, 227 << 10),
        _gpu("sm_100", 2250e12, 80e12, 40e12, 8.0e12, 148, 227 << 10, operands=True),
        _gpu("gfx942", 1300e12, 163e12, 81e12, 5.3e12, 304, 64 << 10),
    )
}


def device(target: str) -> Device:
    """The device called ``target``; a newer GPU counts as the newest known.  Raises :class:`UnknownTargetError`."""
    if target in DEVICES:
        return DEVICES[target]
    if match := re.fullmatch(r"sm_(\d+)a?", target):
        known = sorted((int(name[3:]), name) for name in DEVICES if name.startswith("sm_"))
        older = [name for number, name in known if number <= int(match[1])]
        return DEVICES[older[-1] if older else known[0][1]]
    if target.startswith("gfx"):
        return DEVICES["gfx942"]
    raise UnknownTargetError(f"there is no target {target!r}; targets: {', '.join(DEVICES)}")


@dataclass(frozen=True, slots=True)
class Work:
    """One attention to be tiled: its domain, sources, widths, element type and facts about sizes."""

    domain: tuple[Dim, ...]
    sources: tuple[Source, ...]
    width: int
    value_width: int
    dtype: str
    facts: tuple[Expr, ...] = ()

    def sizes(self, length: int) -> dict[str, int]:
        return nominal_sizes(self.domain, self.sources, length)


@lru_cache(maxsize=1024)
def timings(work: Work, on: Device, length: int) -> dict[tuple[int, int], float]:
    """Predicted time of one core for ``work`` in each (queries, keys) tile that fits, at a nominal length."""
    tiles = list(candidates(work, on)) or [(16, 16)]
    found: dict[tuple[int, int], float] = {}
    for rows in dict.fromkeys(r for r, _ in tiles):  # the ranges of keys are evaluated once for each
        widths = [k for r, k in tiles if r == rows]
        padded = [(rows, k) for k in widths] + [(rows, k if on.is_gpu else 16) for k in widths]
        areas = _areas(work, rows, padded, length)
        height = strip(on, work.dtype == "bf16")
        if height:  # strips look at their own keys only
            keys = STRIP if height == STRIP else 16
            areas[len(widths) :] = _areas(work, min(rows, height), [(height, keys)] * len(widths), length)
        for n, keys in enumerate(widths):
            walked, computed = areas[n], areas[len(widths) + n]
            shape = min(rows, 2 * height) if height and computed < NARROW * min(areas[: len(widths)]) else rows
            found[rows, keys] = _seconds(work, on, (rows, keys), walked, computed, shape)
    return {t: found[t] for t in tiles}


def strip(on: Device, narrow: bool) -> int:
    """Rows of a tile that a CPU computes at a time where a mask bites; 0 on a GPU."""
    return STRIP if on.matrix and narrow else on.lanes


def _areas(work: Work, rows: int, padded: list[tuple[int, int]], length: int) -> list[int]:
    sizes = work.sizes(length)
    each = [computed_pairs(work.domain, s, sizes, rows=rows, padded=padded, facts=work.facts) for s in work.sources]
    return [sum(areas) for areas in zip(*each, strict=True)]


def _seconds(work: Work, on: Device, tiles: tuple[int, int], walked: int, area: int, shape: int) -> float:
    """``walked`` are the pairs of all steps of the loops over keys, ``area`` those that are computed.

    They are computed in register blocks of ``shape`` rows.
    """
    rows, keys = tiles
    steps = walked / (rows * keys)
    widths = work.width + work.value_width
    busy = _busy(on, work.dtype, shape, keys)
    arithmetic = area * widths / (on.peak[work.dtype] * busy) + area * EXPONENTIAL / on.peak["f32"]
    if _converts(on, work.dtype):  # a vector in the time of four multiply-adds
        arithmetic += area / rows * widths * 4 / on.peak["f32"]
    if on.matrix and work.dtype == "bf16":
        # values are transposed for each tile of queries, accumulators rescaled and moved for each tile of keys
        moved = work.value_width * (walked * 80e-12 / rows + area * 110e-12 / keys)
        return arithmetic + moved + steps * on.step
    if shape < rows:  # sums are rescaled strip by strip
        arithmetic += walked / keys * 2e-9
    if not on.is_gpu and rows * (widths + keys) * max(4, _BYTES[work.dtype]) > on.fast:
        arithmetic *= 1.02  # queries, scores and outputs come from the second level now and then
    traffic = area / rows * widths * _BYTES[work.dtype] / (on.bandwidth * 8)  # keys mostly come from the last cache
    return max(arithmetic, traffic) + steps * on.step


def _busy(on: Device, dtype: str, rows: int, keys: int) -> float:
    """The share of a device's multiply-adds that a tile of this shape keeps going."""
    if on.is_gpu:  # a narrow tile leaves matrix units idle
        return min(1.0, rows / 128) ** 0.5 * min(1.0, keys / 64) ** 0.5
    full = on.vectors * _lanes(on, dtype)
    if rows >= full:
        return 1.0
    return 0.95 if rows >= full // 2 else 0.85  # a key that is loaded meets fewer queries


def _lanes(on: Device, dtype: str) -> int:
    """Elements of a vector as a CPU computes them: halves are widened."""
    return on.lanes // 2 if dtype == "f64" else on.lanes


def _converts(on: Device, dtype: str) -> bool:
    """Are keys widened before a CPU multiplies them, once for each tile of queries?"""
    return not on.is_gpu and _BYTES[dtype] == 2 and on.peak[dtype] == on.peak["f32"]


def candidates(work: Work, on: Device) -> Iterator[tuple[int, int]]:
    """Tiles that a device can hold."""
    if not on.is_gpu:
        if on.matrix and work.dtype == "bf16":
            yield from itertools.product((256, 128, 64, 32), (256, 128, 64, 32))
            return
        # queries fill several vector registers, fewer where bands are narrow, more where keys have to be converted
        wide = [2 * on.vectors] if _converts(on, work.dtype) else []
        lanes = _lanes(on, work.dtype)
        element = 8 if work.dtype == "f64" else 4
        blocks = (32, 16, 8, 4)
        for vectors, keys in itertools.product((on.vectors, *wide, 2, 1), [n * on.height for n in blocks]):
            if vectors * lanes * keys * element <= on.fast * 2 // 3:  # scores are not alone there
                yield vectors * lanes, keys
        return
    size = _BYTES[work.dtype]
    width, value_width = _padded(work.width), _padded(work.value_width)
    most_rows, most_keys = _plain_tile(work.dtype, max(width, value_width))
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


def _plain_tile(dtype: str, width: int) -> tuple[int, int]:
    """The largest tile whose products fit registers when plain multiply-adds compute them (f32 and f64)."""
    if dtype in ("f16", "bf16"):
        return 128, 128
    rows, keys, at = (64, 32, 128) if dtype == "f32" else (32, 32, 64)
    shrink = max(1, width // at)
    return max(16, rows // shrink), max(16, keys // shrink)


def choose_tiles(work: Work, target: str) -> tuple[int, int]:
    """The (queries, keys) tile with the lowest predicted time; larger keys win ties."""
    times = timings(work, device(target), NOMINAL_LENGTH)
    return min(times, key=lambda tiles: (times[tiles], [-n for n in tiles]))


# The largest tiles whose four products stay in registers, by what the assemblers say: widths up to 64, up to 128.
_HALF_GRADIENT = {
    "sm_80": ((32, 32), (32, 32)),
    "sm_90": ((128, 32), (128, 32)),
    "sm_100": ((64, 64), (64, 32)),
    "gfx942": ((64, 32), (32, 16)),
}


WORTH_HALVING = 0.92  # the share of pairs below which narrower register blocks pay
WORTH_HALVING_AGAIN = 0.75  # below which blocks of one vector do


def choose_gradient_tiles(work: Work, target: str, other: Sequence[Work] = ()) -> tuple[int, int]:
    """The tile for gradients: (rows of a task, step of its loop); rows are queries or keys, and the loop the other.

    ``other`` are forms of the work that kernels may have instead, if they compute fewer pairs.

    Twice the accumulators and the streams of the forward kernel, so tiles are smaller.  On a GPU they do not depend on
    the mask; on a CPU a task has half the rows where that leaves many fewer pairs to compute.
    """
    on = device(target)
    if on.matrix and work.dtype == "bf16":
        return 128, 128
    if not on.is_gpu:
        rows = on.vectors * _lanes(on, work.dtype)
        step = 16 * on.height
        if _converts(on, work.dtype):  # as many as the forward kernel likes to have between conversions
            return max(rows, choose_tiles(work, target)[0]), min(step, 64) // (8 * on.height) * (8 * on.height)

        # strips leave out what halves would, unless sums over pairs are wanted, or keys have the form of image rows
        striped = not other and not any(loads(s.score.body) for s in work.sources)
        most = strip(on, False) if striped else rows

        def area(rows: int) -> int:
            height = min(rows, most)
            return min(_areas(form, height, [(height, 1)], NOMINAL_LENGTH)[0] for form in (work, *other))

        for worth in (WORTH_HALVING, WORTH_HALVING_AGAIN):
            if rows % (2 * _lanes(on, work.dtype)) or area(rows // 2) >= worth * area(rows):
                break
            rows //= 2
        return rows, step
    widest = max(work.width, work.value_width)
    if work.dtype in ("f16", "bf16") and widest <= 128:
        return _HALF_GRADIENT[on.name][widest > 64]
    rows, step = 32, 32
    widths = sum(_padded(w) for w in (work.width, work.value_width))
    size = _BYTES[work.dtype]
    while True:
        shared = (rows + 2 * step) * widths * size  # two tensors are held, the other two fetched ahead
        accumulators = rows * (widths + 2 * step) * max(4, size)
        if (shared <= on.fast and accumulators <= on.registers) or (rows, step) == (16, 16):
            return rows, step
        rows, step = (rows, step // 2) if step > 16 else (rows // 2, step)


def _padded(width: int) -> int:
    """Features as a matrix unit sees them."""
    return max(16, 1 << (width - 1).bit_length())


def faster(after: Work, before: Work, target: str, lengths: Sequence[int] = (512, NOMINAL_LENGTH)) -> bool:
    """Is ``after`` predicted to take no longer than ``before`` at every length, and less at one?"""
    on = device(target)
    new, old = choose_tiles(after, target), choose_tiles(before, target)
    pairs = [(timings(after, on, n)[new], timings(before, on, n)[old]) for n in lengths]
    return all(a <= b * 1.05 for a, b in pairs) and any(a < b * 0.98 for a, b in pairs)
