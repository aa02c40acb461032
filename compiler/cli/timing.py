"""Fair comparisons: contenders take turns in one process, medians decide, and the ratio comes first."""

from __future__ import annotations

import gc
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ...backends.host import processor

PACKAGES = ("attnc", "torch", "torch-mlir", "triton", "xdsl")
Call = Callable[[], Any]
MOST_TURNS = 200  # beyond those asked for


@dataclass
class Comparison:
    """One case: seconds of every call, by contender; the first contender is ours."""

    case: str
    seconds: dict[str, list[float]]
    error: dict[str, float] = field(default_factory=dict)  # largest difference from float64, where it was checked
    goals: Mapping[str, float] = field(default_factory=dict)  # our speed over an opponent's that is aimed at
    gflops: float | None = None  # useful arithmetic a second, ours, in 1e9

    @property
    def medians(self) -> dict[str, float]:
        return {name: statistics.median(times) for name, times in self.seconds.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """How much faster ours is than each opponent."""
        ours, *others = self.medians.items()
        return {name: other / ours[1] for name, other in others}

    def to_json(self) -> dict[str, Any]:
        """Ratio first, and every single time."""
        return {
            "case": self.case,
            "ratio": _rounded(self.ratios),
            "goals": dict(self.goals),
            "gflops": self.gflops,
            "median_s": _rounded(self.medians),
            "error": self.error,
            "seconds": self.seconds,
        }


def compare(
    case: str,
    calls: Mapping[str, Call],
    rounds: int,
    goals: Mapping[str, float] | None = None,
    *,
    seconds: float = 0.0,
    enough: float = math.inf,
    warm: Collection[str] = (),
) -> Comparison:
    """Time the calls in turns, under a progress bar.  Each has one warm-up, which also compiles it, but those ``warm``.

    Where ``rounds`` turns take less than ``seconds``, there are more of them.  A call whose turns have taken ``enough``
    seconds has no more: a long one is measured well at once.
    """
    from rich.progress import track

    for name, call in calls.items():
        if name not in warm:
            call()
    found: dict[str, list[float]] = {name: [] for name in calls}

    def turn() -> None:
        for name, call in calls.items():
            if sum(found[name]) >= enough:
                continue
            start = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - start)

    gc.collect()
    gc.disable()
    try:
        for _ in track(range(rounds), case, transient=True):
            turn()
        spent = sum(map(sum, found.values()))
        for _ in range(min(MOST_TURNS, int(rounds * (seconds / spent - 1)))):
            turn()
    finally:
        gc.enable()
    return Comparison(case, found, goals=goals or {})


def show(comparisons: Sequence[Comparison], title: str) -> None:
    """A table, ratios first."""
    from rich.console import Console
    from rich.table import Table

    rows = [row for c in comparisons for row in _rows(c)]
    table = Table(title=title, title_justify="left", title_style="")
    heads = ("case", "faster than", "ratio", "goal", "ours ms", "theirs ms", "spread", "GF/s", "our error")
    shown = [n for n in range(len(heads)) if n < 3 or any(row[n] for row in rows)]
    for n in shown:
        table.add_column(heads[n], justify="left" if n < 2 else "right")
    for row in rows:
        table.add_row(*(row[n] for n in shown))
    (Console() if Console().is_terminal else Console(width=140)).print(table)


def _rows(c: Comparison) -> Iterator[tuple[str, ...]]:
    ours, *others = c.medians
    for n, name in enumerate(others):
        goal = f"{c.goals[name]:g}" if name in c.goals else ""
        times = (f"{c.medians[who] * 1e3:.4g}" for who in (ours, name))
        yield (
            c.case if n == 0 else "",
            name,
            f"{c.ratios[name]:.2f}x",
            goal,
            *times,
            f"{_spread(c.seconds[ours]):.0%}",
            f"{c.gflops:.0f}" if c.gflops and n == 0 else "",
            f"{c.error[ours]:.1e}" if ours in c.error and n == 0 else "",
        )


def _spread(times: Sequence[float]) -> float:
    """Half the distance between the quartiles, over the median."""
    if len(times) < 4:
        return (max(times) - min(times)) / 2 / statistics.median(times)
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / 2 / middle


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def machine() -> dict[str, Any]:
    """Processor, system and versions."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
