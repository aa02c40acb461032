"""What a device is good at, and how long attention of a given size takes on it: the first cost model.

Time is the larger of arithmetic and memory traffic, plus a fixed price per step of a key loop.  It ranks choices; it
does not predict microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from .devices import DEVICES, ELEMENT_BYTES, Device, UnknownTargetError, device
from .live_area import computed_pairs
from .space import Choice, candidates, converts, lanes_of, largest_gradient_tile
from .work import Work

__all__ = [
    "DEVICES",
    "Device",
    "UnknownTargetError",
    "Work",
    "choose_gradient_tiles",
    "choose_tiles",
    "device",
    "faster",
    "timings",
]

NOMINAL_LENGTH = 8192  # rows and keys assumed when weighing choices: sizes are symbols when a kernel is compiled
STRIP = 32  # rows of a tile that are computed at a time where a CPU has matrix registers
EXPONENTIAL = 16  # what one costs in multiply-adds


@lru_cache(maxsize=1024)
def timings(work: Work, on: Device, length: int) -> dict[tuple[int, int], float]:
    """Predicted time of one core for ``work`` in each (queries, keys) tile that fits, at a nominal length."""
    tiles = [c.tiles for c in candidates(work, on)]
    found: dict[tuple[int, int], float] = {}
    for rows in dict.fromkeys(r for r, _ in tiles):  # the ranges of keys are evaluated once for each
        widths = [k for r, k in tiles if r == rows]
        padded = [(rows, k) for k in widths] + [(rows, k if on.is_gpu else 16) for k in widths]
        areas = _areas(work, rows, padded, work.sizes(length))
        if on.matrix and work.dtype == "bf16":  # strips look at their own keys only
            areas[len(widths) :] = _areas(work, min(rows, STRIP), [(STRIP, STRIP)] * len(widths), work.sizes(length))
        for n, keys in enumerate(widths):
            walked, computed = areas[n], areas[len(widths) + n]
            found[rows, keys] = _seconds(work, on, (rows, keys), walked, computed)
    return {t: found[t] for t in tiles}


def _areas(work: Work, rows: int, padded: list[tuple[int, int]], sizes: Mapping[str, int]) -> list[int]:
    each = [computed_pairs(work.domain, s, sizes, rows=rows, padded=padded, facts=work.facts) for s in work.sources]
    return [sum(areas) for areas in zip(*each, strict=True)]


def _seconds(work: Work, on: Device, tiles: tuple[int, int], walked: int, area: int) -> float:
    """``walked`` are the pairs of all steps of the loops over keys, ``area`` those that are computed."""
    rows, keys = tiles
    steps = walked / (rows * keys)
    widths = work.width + work.value_width
    busy = _busy(on, work.dtype, rows, keys)
    arithmetic = area * widths / (on.peak[work.dtype] * busy) + area * EXPONENTIAL / on.peak["f32"]
    if converts(on, work.dtype):  # a vector in the time of four multiply-adds
        arithmetic += area / rows * widths * 4 / on.peak["f32"]
    if on.matrix and work.dtype == "bf16":
        # values are transposed for each tile of queries, accumulators rescaled and moved for each tile of keys
        moved = work.value_width * (walked * 80e-12 / rows + area * 110e-12 / keys)
        return arithmetic + moved + steps * on.step
    if not on.is_gpu and rows * (widths + keys) * max(4, ELEMENT_BYTES[work.dtype]) > on.fast:
        arithmetic *= 1.02  # queries, scores and outputs come from the second level now and then
    traffic = (
        area / rows * widths * ELEMENT_BYTES[work.dtype] / (on.bandwidth * 8)
    )  # keys mostly come from the last cache
    return max(arithmetic, traffic) + steps * on.step


def _busy(on: Device, dtype: str, rows: int, keys: int) -> float:
    """The share of a device's multiply-adds that a tile of this shape keeps going."""
    if on.is_gpu:  # a narrow tile leaves matrix units idle
        return min(1.0, rows / 128) ** 0.5 * min(1.0, keys / 64) ** 0.5
    full = on.vectors * lanes_of(on, dtype)
    if rows >= full:
        return 1.0
    return 0.95 if rows >= full // 2 else 0.85  # a key that is loaded meets fewer queries


def choose_tiles(work: Work, target: str) -> tuple[int, int]:
    """The (queries, keys) tile with the lowest predicted time; larger keys win ties."""
    times = timings(work, device(target), NOMINAL_LENGTH)
    return min(times, key=lambda tiles: (times[tiles], [-n for n in tiles]))


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
        rows = on.vectors * lanes_of(on, work.dtype)
        step = 16 * on.height
        if converts(on, work.dtype):  # as many as the forward kernel likes to have between conversions
            return max(rows, choose_tiles(work, target)[0]), min(step, 64) // (8 * on.height) * (8 * on.height)

        def area(rows: int) -> int:
            return min(_areas(form, rows, [(rows, 1)], form.sizes(NOMINAL_LENGTH))[0] for form in (work, *other))

        for worth in (WORTH_HALVING, WORTH_HALVING_AGAIN):
            if rows % (2 * lanes_of(on, work.dtype)) or area(rows // 2) >= worth * area(rows):
                break
            rows //= 2
        return rows, step
    return largest_gradient_tile(work, on)


def faster(after: Work, before: Work, target: str, lengths: Sequence[int] = (512, NOMINAL_LENGTH)) -> bool:
    """Is ``after`` predicted to take no longer than ``before`` at every length, and less at one?"""
    on = device(target)
    new, old = choose_tiles(after, target), choose_tiles(before, target)
    pairs = [(timings(after, on, n)[new], timings(before, on, n)[old]) for n in lengths]
    return all(a <= b * 1.05 for a, b in pairs) and any(a < b * 0.98 for a, b in pairs)


def predicted(
    work: Work,
    on: Device,
    choice: Choice,
    sizes: Mapping[str, int],
    gradient: bool = False,
    threads: int = 1,
) -> float:
    """Seconds that an attention, or its gradient, takes for these sizes with this choice."""
    rows, keys = choice.tiles
    padded = [(rows, keys), (rows, 16)]
    walked, area = _areas(work, rows, padded, sizes)
    return _seconds(work, on, choice.tiles, walked, area) * (2.5 if gradient else 1) / threads
