"""Fair comparisons: contenders take turns in one process, medians decide, and the ratio comes first.

A result is a JSON file in ``results/`` with the machine and the versions that it was measured on.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("attnc", "torch", "torch-mlir", "triton", "xdsl")
Call = Callable[[], Any]


@dataclass
class Comparison:
    """One case: seconds of every call, by contender; the first contender is ours."""

    case: str
    seconds: dict[str, list[float]]
    error: dict[str, float] = field(default_factory=dict)  # largest difference from float64, where it was checked
    goal: float | None = None  # our speed over the first opponent's that this version aims at

    @property
    def medians(self) -> dict[str, float]:
        return {name: statistics.median(times) for name, times in self.seconds.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """How much faster ours is than each opponent."""
        ours, *others = self.medians.items()
        return {name: other / ours[1] for name, other in others}


def arguments(description: str, **defaults: int) -> argparse.Namespace:
    """The options that every benchmark takes, and ``defaults`` as integer options of its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few rounds, and no file is written")
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value, help="default: %(default)s")
    return parser.parse_args()


def compare(case: str, calls: Mapping[str, Call], rounds: int, goal: float | None = None) -> Comparison:
    """Time the calls in turns.  Each has one warm-up, which also compiles it."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for _ in track(range(rounds), case, transient=True):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return Comparison(case, seconds, goal=goal)


def show(comparisons: Sequence[Comparison], title: str) -> None:
    """A table, ratios first."""
    table = Table(title=title, title_justify="left", title_style="")
    for head in ("case", "faster than", "ratio", "goal", "ours ms", "theirs ms", "spread", "our error", "their error"):
        table.add_column(head, justify="left" if head in ("case", "faster than") else "right")
    for c in comparisons:
        ours, *others = c.medians
        for n, name in enumerate(others):
            goal = f"{c.goal:g}" if c.goal is not None and n == 0 else ""
            row = (f"{c.ratios[name]:.2f}x", goal, f"{c.medians[ours] * 1e3:.1f}", f"{c.medians[name] * 1e3:.1f}")
            errors = (f"{c.error[who]:.1e}" if who in c.error else "" for who in (ours, name))
            table.add_row(c.case if n == 0 else "", name, *row, f"{_spread(c.seconds[ours]):.0%}", *errors)
    (Console() if Console().is_terminal else Console(width=140)).print(table)


def _spread(times: Sequence[float]) -> float:
    """Half the distance between the quartiles, over the median."""
    if len(times) < 4:
        return (max(times) - min(times)) / 2 / statistics.median(times)
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / 2 / middle


def save(name: str, comparisons: Sequence[Comparison], setup: Mapping[str, Any]) -> Path:
    """Write ``results/<name>.json``: setup, machine, versions, and every single time."""
    rows = [
        {"case": c.case, "ratio": _rounded(c.ratios), "goal": c.goal, "median_s": _rounded(c.medians), "error": c.error}
        | {"seconds": asdict(c)["seconds"]}
        for c in comparisons
    ]
    text = json.dumps({"setup": dict(setup), "machine": machine(), "rows": rows}, indent=1)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(text + "\n")
    return path


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def machine() -> dict[str, Any]:
    """Processor, system and versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
