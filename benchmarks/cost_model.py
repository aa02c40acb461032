"""How well the cost model ranks the tiles of a kernel: predicted and measured times of every candidate, on one core.

For each pattern, dtype and pass, all candidates of the tuning space run in rounds in one process, and again in other
processes, because the place where code and tensors lie in memory makes a difference of its own.  A machine's speed
drifts, so that a time counts relative to its round: the median over rounds is compared with the prediction.  The table
shows Spearman's rank correlation, that of the times of one process with another's, which says how much of the order is
noise, the time of the tiles that attnc chooses by itself over that of the best, and that of the tiles that the model
alone would take.

``--kept`` asks the model again about the times of ``results/cost_model-<target>.json``, and measures nothing.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cpu_patterns import in_window, on_tap
from harness import RESULTS
from measured import with_table
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import attnc
from attnc.backends.mlir_cpu.target import host_target
from attnc.compiler.analysis.space import Choice
from attnc.compiler.cli.timing import machine
from attnc.compiler.lowered import Lowered
from attnc.compiler.spaces import own_choices, space_of

sys.path.append(str(Path(__file__).parents[1] / "tests"))
patterns: Any = importlib.import_module("patterns")  # those of the tests, which a type checker does not find

HEADS = 1, 4  # forward and backward: a run takes milliseconds, so that the least of many is undisturbed
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
MAIN = ("dense", "causal", "window 256", "dilated 8 x 64")  # the default has to be near the best of these
GOAL, NEAR = 0.8, 1.1
PAGE = RESULTS.parents[1] / "docs" / "cost-model.md"


def _wide(live: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        keep = live(*patterns.positions(q, k))
        return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~keep, -math.inf).softmax(-1) @ v

    return attend


WIDE = {"window 256": patterns.Pattern(_wide(in_window)), "dilated 8 x 64": patterns.Pattern(_wide(on_tap))}


@dataclass(frozen=True)
class Case:
    """One attention, forward or backward."""

    pattern: str
    dtype: str
    length: int
    width: int
    backward: bool

    def __str__(self) -> str:
        pass_ = "backward" if self.backward else "forward"
        return f"{self.pattern} {self.dtype} N{self.length} D{self.width}, {pass_}"

    @property
    def function(self) -> Callable[..., torch.Tensor]:
        return (WIDE.get(self.pattern) or patterns.BY_NAME[self.pattern]).fn

    def inputs(self) -> list[Any]:
        pattern = WIDE.get(self.pattern) or patterns.BY_NAME[self.pattern]
        dtype = DTYPES[self.dtype]
        found = pattern.inputs(
            1, HEADS[self.backward] * pattern.kv_heads, self.length, self.length, self.width, dtype=dtype
        )
        assert found is not None
        tensors = [x.contiguous() for x in found]
        return [x.requires_grad_(self.backward) if x.is_floating_point() else x for x in tensors]

    def compiled(self, option: str = "", text: str = "") -> attnc.CompiledAttention:
        return attnc.compile(self.function, fallback="silent", options={option: text} if text else {})

    def lowered(self) -> Lowered:
        lowered = self.compiled().lower(*self.inputs())
        return lowered.backward() if self.backward else lowered


def cases(quick: bool) -> list[Case]:
    """The four patterns at several widths and both types, then the rest of the pattern table."""
    both = (False, True)
    if quick:
        return [Case(p, "f32", 1024, 64, False) for p in MAIN]
    found = [Case(p, t, 1024 if b else 2048, 64, b) for t in DTYPES for b in both for p in MAIN]
    known = [p.name for p in (*patterns.PATTERNS, *patterns.CAPTURED) if p.name not in (*MAIN, "no_key", "pair_gate")]
    found += [Case(p, "f32", 1024, 64, False) for p in known]
    found += [Case(p, "f32", 1024, d, b) for d in (32, 128) for b in both for p in MAIN]
    found += [Case(p, "bf16", 2048, 64, False) for p in known]
    return found + [Case(p, "f32", 1024, 64, True) for p in known]


# ---- measuring ------------------------------------------------------------------------------------------


def worker(chosen: Sequence[Case], seconds: float) -> None:
    """Time every candidate of each case; a line of JSON for each case."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # subnormal numbers take ten times as long, and data decide how many there are
    for case in chosen:
        try:
            times = _times(case, seconds)
        except attnc.AttncError as error:
            print(json.dumps({"case": str(case), "error": str(error)}), flush=True)
            continue
        print(json.dumps({"case": str(case), "times": times}), flush=True)


def _times(case: Case, seconds: float) -> dict[str, list[float]]:
    """Seconds of each candidate, in rounds of all of them."""
    space, inputs = space_of(case.lowered()), case.inputs()
    if len(space.works) != 1:
        return {}
    calls = {text: _call(case, space.option, text, inputs) for text in map(str, space.candidates[0])}
    times: dict[str, list[float]] = {text: [] for text in calls}
    start, rounds = time.perf_counter(), 0
    while rounds < 5 or (time.perf_counter() - start < seconds and rounds < 100):
        rounds += 1
        for text, call in calls.items():
            begin = time.thread_time()  # what the machine does beside does not count
            call()
            times[text].append(float(f"{time.thread_time() - begin:.4g}"))
    return times


def settled(rounds: dict[str, list[float]]) -> dict[str, float]:
    """The median of each candidate's times, each relative to its round; in seconds of the median round."""
    whole = [math.exp(statistics.fmean(map(math.log, row))) for row in zip(*rounds.values(), strict=True)]
    scale = statistics.median(whole)
    return {
        text: scale * statistics.median(t / w for t, w in zip(times, whole, strict=True))
        for text, times in rounds.items()
    }


def _call(case: Case, option: str, text: str, inputs: list[Any]) -> Callable[[], object]:
    function = case.compiled(option, text)
    if not case.backward:

        def call() -> object:
            with torch.no_grad():
                return function(*inputs)

    else:
        leaves = [x for x in inputs if x.is_floating_point()]
        out = function(*inputs)
        given = torch.ones_like(out)

        def call() -> object:
            return torch.autograd.grad(out, leaves, given, retain_graph=True, allow_unused=True)

    call()
    return call


@dataclass(frozen=True)
class Times:
    """Seconds of each candidate from all processes, and how well those of one process rank those of another."""

    seconds: dict[str, float]
    repeat: float | None = None

    @classmethod
    def of(cls, processes: Sequence[dict[str, list[float]]]) -> Times:
        together = {text: [t for rounds in processes for t in rounds[text]] for text in processes[0]}
        each = [list(settled(rounds).values()) for rounds in processes]
        repeats = [spearman(a, b) for a, b in itertools.combinations(each, 2)]
        return cls(settled(together), statistics.mean(repeats) if repeats else None)


def measure(chosen: Sequence[Case], processes: int, seconds: float) -> Iterator[tuple[Case, Times]]:
    """Times of every case, from the rounds of all processes."""
    by_name = {str(c): c for c in chosen}
    rounds: dict[str, list[dict[str, list[float]]]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("measuring", total=processes * len(chosen))
        for _ in range(processes):
            command = [sys.executable, __file__, "--worker", json.dumps([c.__dict__ for c in chosen])]
            with subprocess.Popen([*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                for line in child.stdout:
                    row = json.loads(line)
                    if row.get("times"):
                        rounds.setdefault(row["case"], []).append(row["times"])
                    progress.update(bar, advance=1, description=row["case"])
    for name, found in rounds.items():
        yield by_name[name], Times.of(found)


# ---- the model ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A case, its measured seconds, those predicted, and the tiles that attnc chooses by itself."""

    case: Case
    measured: Times
    predicted: dict[str, float]
    chosen: str

    @property
    def times(self) -> dict[str, float]:
        return self.measured.seconds

    @property
    def candidates(self) -> list[str]:
        return sorted(self.predicted)

    @property
    def correlation(self) -> float:
        return spearman([self.times[c] for c in self.candidates], [self.predicted[c] for c in self.candidates])

    @property
    def best(self) -> float:
        return min(self.times.values())

    @property
    def default(self) -> float:
        """The default's time over the best."""
        return self.times[self.chosen] / self.best

    @property
    def first(self) -> float:
        """The time of what the model would take at exactly this size, over the best."""
        return self.times[min(self.candidates, key=lambda c: self.predicted[c])] / self.best

    def to_json(self) -> dict[str, Any]:
        figures = {"correlation": self.correlation, "repeat": self.measured.repeat}
        figures |= {"default": self.default, "first": self.first}
        return {
            "case": self.case.__dict__,
            **figures,
            "chosen": self.chosen,
            "seconds": self.times,
            "predicted": self.predicted,
        }


def kept(target: str) -> Path:
    """Where the times of this host are, which has its target's instructions."""
    return RESULTS / f"cost_model-{target}.json"


def read(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """What was kept: rows with the predictions of then, and the machine."""
    data = json.loads(path.read_text())
    rows = [
        Row(Case(**r["case"]), Times(r["seconds"], r.get("repeat")), r["predicted"], r["chosen"]) for r in data["rows"]
    ]
    return rows, data["machine"]


def row_of(case: Case, times: Times) -> Row:
    lowered = case.lowered()
    space, (chosen,) = space_of(lowered), own_choices(lowered)
    return Row(case, times, {text: space.predicted([Choice.read(text)]) for text in times.seconds}, str(chosen))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation; ties share their mean rank."""
    return statistics.correlation(_ranks(a), _ranks(b)) if min(len(set(a)), len(set(b))) > 1 else 1.0


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered.index(v) + (ordered.count(v) - 1) / 2 for v in values]


def show(rows: Sequence[Row]) -> Table:
    table = Table("case", "candidates", "worst / best", "correlation", "repeat", "default / best", "model's / best")
    for r in rows:
        main = r.case.pattern in MAIN
        table.add_row(
            str(r.case),
            str(len(r.candidates)),
            f"{max(r.times.values()) / r.best:.2f}",
            f"[{'green' if r.correlation >= GOAL else 'red'}]{r.correlation:.2f}",
            _figure(r.measured.repeat),
            f"[{'red' if main and r.default > NEAR else 'default'}]{r.default:.2f}",
            f"{r.first:.2f}",
        )
    good = sum(r.correlation >= GOAL for r in rows)
    mean, median = (f(r.correlation for r in rows) for f in (statistics.mean, statistics.median))
    table.caption = f"mean {mean:.2f}, median {median:.2f}; {good} of {len(rows)} reach {GOAL}"
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def written(rows: Sequence[Row], on: dict[str, Any]) -> str:
    """The table of the documentation: the four patterns one by one, the pattern table as a whole."""
    lines = [f"{on['processor']}, one core, {on['date']}.", ""]
    lines += [
        "| case | candidates | worst / best | rank correlation | of processes | default / best | model's / best |"
    ]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {r.case} | {len(r.candidates)} | {max(r.times.values()) / r.best:.2f} | {r.correlation:.2f} "
        f"| {_figure(r.measured.repeat)} | {r.default:.2f} | {r.first:.2f} |"
        for r in rows
        if r.case.pattern in MAIN
    ]
    for dtype, backward in itertools.product(DTYPES, (False, True)):
        rest = [r for r in rows if r.case.pattern not in MAIN and (r.case.dtype, r.case.backward) == (dtype, backward)]
        if rest:
            pass_ = "backward" if backward else "forward"
            good = sum(r.correlation >= GOAL for r in rest)
            median = [statistics.median(getattr(r, name) for r in rest) for name in ("correlation", "default", "first")]
            repeats = [r.measured.repeat for r in rest if r.measured.repeat is not None]
            repeat = _figure(statistics.median(repeats) if repeats else None)
            spread = statistics.median(max(r.times.values()) / r.best for r in rest)
            lines.append(
                f"| {len(rest)} more patterns {dtype}, {pass_}: medians; {good} reach {GOAL} | | {spread:.2f} "
                f"| {median[0]:.2f} | {repeat} | {median[1]:.2f} | {median[2]:.2f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="four patterns, one process, and no file is written")
    parser.add_argument("--kept", action="store_true", help="ask the model about the times measured last")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each case in each process")
    parser.add_argument("--only", default="", help="cases whose name this expression finds; others keep their times")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker([Case(**c) for c in json.loads(options.worker)], options.seconds)
        return
    path = kept(host_target().name)
    old: dict[Case, Times] = {}
    on = machine()
    if (options.kept or options.only) and path.exists():
        rows, measured_on = read(path)
        old = {r.case: r.measured for r in rows}
        on = measured_on if options.kept else on
    chosen = [] if options.kept else [c for c in cases(options.quick) if re.search(options.only, str(c))]
    found = old | dict(measure(chosen, 1 if options.quick else options.processes, options.seconds))
    rows = [row_of(case, times) for case, times in found.items()]
    Console().print(show(rows))
    if not options.quick:
        data = {"setup": {"heads": HEADS, "threads": 1}, "machine": on, "rows": [r.to_json() for r in rows]}
        path.write_text(json.dumps(data, indent=1) + "\n")
        tables = [written(*read(p)) for p in sorted(RESULTS.glob("cost_model-*.json"))]
        PAGE.write_text(with_table(PAGE, "\n".join(tables)))


if __name__ == "__main__":
    main()
