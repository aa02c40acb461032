"""What ``attnc zoo`` finds out about a system, and the table of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import geometric_mean
from typing import Any

from ..zoo import judge as zoo
from ..zoo.page import percent
from ..zoo.systems import System
from .contest import bench
from .timing import Comparison

SECONDS = 0.3  # that turns of one function take at least
ENOUGH = 1.5  # that turns of one contender take at most, but for the last


@dataclass(frozen=True)
class Judged:
    """One system; times are medians in seconds, by function and contender."""

    system: System
    facts: list[zoo.Facts]
    checks: list[zoo.Check]
    times: dict[str, Comparison] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        return all(c.ok for c in self.checks)

    @property
    def fused(self) -> bool:
        return all(f.fused for f in self.facts) and not any(c.fallbacks for c in self.checks)

    @property
    def worst(self) -> zoo.Check:
        return max(self.checks, key=lambda c: (not c.ok, c.share))

    @property
    def why(self) -> str:
        """Why it is not fused: what its file says, else what the compiler says."""
        if self.fused:
            return ""
        reasons = [r for f in self.facts for r in f.eager] + [r for c in self.checks for r in c.fallbacks]
        return self.system.eager or "; ".join(dict.fromkeys(r.splitlines()[0] for r in reasons))

    @property
    def ratios(self) -> dict[str, float]:
        """How much faster all functions together are than each contender that runs them all."""
        if not self.times:
            return {}
        everywhere = set.intersection(*({*c.seconds} for c in self.times.values()))
        total = {name: sum(c.medians[name] for c in self.times.values()) for name in sorted(everywhere)}
        return {name: seconds / total["attnc"] for name, seconds in total.items() if name != "attnc"}

    def to_json(self) -> dict[str, Any]:
        """Ratios first, where times were measured."""
        times = {
            "ratio": {name: float(f"{r:.4g}") for name, r in self.ratios.items()},
            "median_s": {name: c.to_json()["median_s"] for name, c in self.times.items()},
        }
        return (times if self.times else {}) | {
            "pattern": self.system.pattern,
            "right": self.right,
            "fused": self.fused,
            "why": self.why,
            "live": zoo.live_fraction(self.facts),
            "computed": zoo.computed_fraction(self.facts),
            "facts": zoo.to_json(self.facts),
            "checks": zoo.to_json(self.checks),
        }

    def page(self) -> str:
        """All that is known about the system, for one that was asked for by name."""
        lines = [f"{self.system.title}: {self.system.sentence}", self.system.source, ""]
        for f, c in zip(self.facts, self.checks, strict=True):
            kernels = f"{f.kernels} kernel{'s' * (f.kernels != 1)}"
            live = zoo.live_fraction([f])
            shares = f"{percent(live)} live, {percent(zoo.computed_fraction([f]))} computed"
            lines.append(f"{f.function}: {'fused' if f.fused else 'not fused'}, {kernels}, {shares}")
            lines += [f"  {p}" for p in f.patterns] + [f"  stays with PyTorch: {e}" for e in f.eager]
            word = "right" if c.ok else "WRONG"
            lines.append(f"  {word}: {c.tensor} errs by {c.error:.2g}, and may by {c.limit:.2g}")
            lines += [f"  falls back: {x}" for x in c.fallbacks]
            lines += _times(self.times[f.function]) if f.function in self.times else []
        return "\n".join(lines) + "\n"


def judge(system: System, backend: str, rounds: int | None) -> Judged:
    """Facts, errors, and times if ``rounds`` says how often to measure."""
    times = {} if rounds is None else measure(system, rounds)
    return Judged(system, zoo.facts(system, backend), zoo.check(system, backend), times)


def measure(system: System, rounds: int) -> dict[str, Comparison]:
    """Forward times of every function at its published size; short calls get more turns than ``rounds``, long fewer."""
    times = {}
    for name, args in system.inputs().items():
        run = bench(
            system.function(name), args, {}, rounds=rounds, seconds=SECONDS, enough=ENOUGH, against=("eager", "sdpa")
        )
        times[name] = run.comparisons[0]
    return times


def _times(c: Comparison) -> list[str]:
    ours = f"  {1e3 * c.medians['attnc']:.3g} ms"
    return [", ".join([ours, *(f"{r:.2f}x faster than {name}" for name, r in c.ratios.items())])]


def show(judged: Sequence[Judged]) -> None:
    """A table with a line for each system."""
    from rich.console import Console
    from rich.table import Table

    timed = any(j.times for j in judged)
    heads = ["system", "pattern", "fused", "live", "computed", "error / limit"]
    heads += ["than eager", "than SDPA"] if timed else []
    table = Table(box=None, pad_edge=False)
    for n, head in enumerate(heads):
        table.add_column(head, justify="left" if n < 3 else "right", overflow="fold")
    for j in judged:
        table.add_row(*_cells(j, j.ratios if timed else None))
    (Console() if Console().is_terminal else Console(width=160)).print(table)


def _cells(j: Judged, ratios: Mapping[str, float] | None) -> list[str]:
    worst = j.worst
    cells = [j.system.name, j.system.pattern, "yes" if j.fused else f"in part: {j.why}"]
    cells += [percent(zoo.live_fraction(j.facts)), percent(zoo.computed_fraction(j.facts))]
    cells.append(f"{worst.error:.1e} / {worst.limit:.1e}" + ("" if j.right else " WRONG"))
    if ratios is not None:
        cells += [f"{ratios[name]:.1f}x" if name in ratios else "" for name in ("eager", "sdpa")]
    return cells


def summary(judged: Sequence[Judged]) -> str:
    """The last line: how many are right and fused."""
    count = len(judged)
    right, fused = sum(j.right for j in judged), sum(j.fused for j in judged)
    line = f"{count} system{'s' * (count != 1)}: {right} right, {fused} fused forward and backward"
    speeds = [j.ratios["eager"] for j in judged if "eager" in j.ratios]
    if len(speeds) > 1:
        line += f"; {geometric_mean(speeds):.1f}x the speed of eager in the geometric mean, {min(speeds):.2f}x at least"
    return line
