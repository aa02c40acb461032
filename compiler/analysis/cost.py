"""How long attention takes on a device, and the choices that follow.

A CPU's time is that of :mod:`.cpu_time`.  A GPU's, which is for one multiprocessor, is the larger of arithmetic and
memory traffic, plus a fixed price per step of a key loop: it ranks choices, and :mod:`.expected` predicts times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from .cpu_time import cpu_time
from .devices import DEVICES, ELEMENT_BYTES, Device, UnknownTargetError, device
from .live_area import computed_pairs
from .space import Choice, candidates, largest_gradient_tile
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
    "predicted",
    "timings",
]

NOMINAL_LENGTH = 8192  # rows and keys assumed when weighing choices: sizes are symbols when a kernel is compiled
EXPONENTIAL = 16  # what one costs in multiply-adds on a GPU
NEARLY = 1.03  # times the least, up to which predictions say the same
GRADIENT_PRODUCTS = 5  # of a pair; a forward kernel has 2


@lru_cache(maxsize=1024)
def timings(
    work: Work, on: Device, length: int, gradient: bool = False, rows: int = 0, like: Work | None = None
) -> dict[tuple[int, int], float]:
    """Predicted time of one core for ``work`` in each (queries, keys) tile that fits, at a nominal length.

    With ``rows``, in those of so many queries alone.  With ``like``, for the sizes that this other form has.
    """
    found, sizes = candidates(work, on, gradient), work.sizes(length) | (like.sizes(length) if like else {})
    found = tuple(c for c in found if rows in (0, c.rows))
    if not on.is_gpu:
        return {c.tiles: cpu_time(work, on, c, sizes, gradient)[0].total for c in found}
    times: dict[tuple[int, int], float] = {}
    for high in dict.fromkeys(c.rows for c in found):  # the ranges of keys are evaluated once for each
        keys = [c.keys for c in found if c.rows == high]
        for k, area in zip(keys, _areas(work, high, [(high, k) for k in keys], sizes), strict=True):
            times[high, k] = _gpu_seconds(work, on, (high, k), area)
    return {c.tiles: times[c.tiles] for c in found}


def predicted(
    work: Work, on: Device, choice: Choice, sizes: Mapping[str, int], gradient: bool = False, threads: int = 1
) -> float:
    """Seconds that an attention, or its gradient, takes for these sizes with this choice on so many cores.

    A GPU's are those of one multiprocessor, and of the forward kernel times the products of the gradient.
    """
    if on.is_gpu:
        (area,) = _areas(work, choice.rows, [choice.tiles], sizes)
        return _gpu_seconds(work, on, choice.tiles, area) * (GRADIENT_PRODUCTS / 2 if gradient else 1) / threads
    parts, tasks = cpu_time(work, on, choice, sizes, gradient)
    if not tasks:
        return on.call
    speed = on.together if threads > 1 else 1.0
    return on.call + parts.total * math.ceil(tasks / threads) / tasks / speed


def _areas(work: Work, rows: int, padded: list[tuple[int, int]], sizes: Mapping[str, int]) -> list[int]:
    each = [computed_pairs(work.domain, s, sizes, rows=rows, padded=padded, facts=work.facts) for s in work.sources]
    return [sum(areas) for areas in zip(*each, strict=True)]


def _gpu_seconds(work: Work, on: Device, tiles: tuple[int, int], area: int) -> float:
    """``area`` are the pairs of all steps of the loops over keys."""
    rows, keys = tiles
    widths = work.width + work.value_width
    busy = min(1.0, rows / 128) ** 0.5 * min(1.0, keys / 64) ** 0.5  # a narrow tile leaves matrix units idle
    arithmetic = area * widths / (on.peak[work.dtype] * busy) + area * EXPONENTIAL / on.peak["f32"]
    # keys mostly come from the last cache
    traffic = area / rows * widths * ELEMENT_BYTES[work.dtype] / (on.bandwidth * 8)
    return max(arithmetic, traffic) + area / (rows * keys) * on.step


def choose_tiles(work: Work, target: str) -> tuple[int, int]:
    """The (queries, keys) tile with the lowest predicted time; larger keys win ties."""
    times = timings(work, device(target), NOMINAL_LENGTH)
    return min(times, key=lambda tiles: (times[tiles], [-n for n in tiles]))


def choose_gradient_tiles(work: Work, target: str, other: Sequence[Work] = ()) -> tuple[int, int]:
    """The tile for gradients: (rows of a task, step of its loop); rows are queries or keys, and the loop the other.

    ``other`` are forms of the work that kernels may have instead, if they compute fewer pairs.  On a GPU tiles do not
    depend on the mask.
    """
    on = device(target)
    if on.is_gpu:
        return largest_gradient_tile(work, on)
    times = [timings(form, on, NOMINAL_LENGTH, gradient=True) for form in (work, *other)]
    least = {tiles: min(t[tiles] for t in times) for tiles in times[0]}
    if other:  # low tiles gain more from such forms than their prices say, so of much the same ones the lowest
        most = NEARLY * min(least.values())
        return min((t for t in least if least[t] <= most), key=lambda tiles: (tiles[0], least[tiles]))
    return min(least, key=lambda tiles: (least[tiles], [-n for n in tiles]))


def faster(after: Work, before: Work, target: str, lengths: Sequence[int] = (512, NOMINAL_LENGTH)) -> bool:
    """Is ``after`` predicted to take no longer than ``before`` at every length, and less at one?"""
    on = device(target)
    new, old = choose_tiles(after, target), choose_tiles(before, target)
    pairs = [(timings(after, on, n)[new], timings(before, on, n)[old]) for n in lengths]
    return all(a <= b * 1.05 for a, b in pairs) and any(a < b * 0.98 for a, b in pairs)
