"""What the examples share: timing, peak memory, formatting."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

MIB = 2**20
Call = Callable[[], Any]


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(call: Call) -> float:
    """How long one call takes."""
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def median_seconds(calls: Mapping[str, Call], rounds: int = 5) -> dict[str, float]:
    """The median time of each call; the calls take turns, so that a noisy moment hits all of them."""
    for call in calls.values():
        call()  # compile, warm up
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: statistics.median(t) for name, t in times.items()}


def peak_bytes(call: Call, device: str = "cpu") -> int:
    """The most memory that ``call`` held beyond what was in use before it: its result and its temporaries."""
    if device == "cuda":
        synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        synchronize()
        return torch.cuda.max_memory_allocated() - before
    before = _reset_peak()
    result = call()
    peak = _peak()
    del result
    return max(peak - before, 0)


def _reset_peak() -> int:
    """Start a new peak of resident memory where the system can; the bytes resident now."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # or the call would reuse, unseen, what others have freed
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:  # only a new all-time peak shows
        return _peak()


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def milliseconds(value: float) -> str:
    return f"{value * 1e3:,.1f}" if value < 1 else f"{value * 1e3:,.0f}"


def mebibytes(value: float) -> str:
    return f"{value / MIB:,.0f}" if value >= 10 * MIB else f"{value / MIB:,.1f}"


def times(slow: float, fast: float) -> str:
    """How often ``fast`` fits into ``slow``."""
    ratio = slow / fast
    return f"{ratio:,.0f}x" if ratio >= 20 else f"{ratio:.1f}x"
