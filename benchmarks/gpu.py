"""The GPU run: correctness of the pattern table, then forward and backward against SDPA and FlexAttention, in bf16.

Cases are ordered by importance and the whole has a deadline; what it does not reach is recorded as not run.  Every case
runs in a process that is replaced if it dies, and results are written after each.  ``benchmarks/gpu.sh`` starts this.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_picture import draw
from gpu_plan import BANDWIDTH_GOAL, FIRST_CALL_GOAL, FLEX, RIVALS, Case, plan
from gpu_workers import GRACE, Answer, Task, Worker, run_all

RESULTS = Path(os.environ.get("OUT") or Path(__file__).parent / "results")
CHECKS_SHARE, PREPARE_SHARE = 0.35, 0.55  # of the deadline, when checking and when preparing must be over
# what attnc imports on a GPU besides torch and triton, and what that imports
NEEDED = ("xdsl", "immutabledict", "ordered_set", "islpy", "typing_extensions", "typer", "rich", "platformdirs",
          "networkx", "sympy", "mpmath", "numpy")  # fmt: skip
CASE_SECONDS = 75.0  # most for one case: the compilers of four contenders, and the timing


class Run:
    """The whole: its clock, its processes, its results."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args, self.folder = args, folder
        self.start = time.monotonic()
        self.end = self.start + args.deadline
        self.path = args.out / "gpu.json"
        setup = {"deadline_s": args.deadline, "quick": args.quick, "dry": args.dry}
        self.result: dict[str, Any] = {"setup": setup, "gpu": {}, "rows": [], "failed": {}}

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.start:5.0f} s] {text}", flush=True)

    def worker(self, name: str, **environment: str) -> Worker:
        """A process with caches of this run's own, so that first calls compile; what is checked is no help to them."""
        caches = self.folder / ("checks" if name == "checks" else "speed")
        folders = {f"{what}_CACHE_DIR": str(caches / what) for what in ("ATTNC", "TORCHINDUCTOR", "TRITON")}
        return Worker(self.args.out / f"gpu-{name}.log", {**folders, **environment})

    def save(self) -> None:
        self.result["seconds"] = round(time.monotonic() - self.start)
        self.args.out.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.result, indent=1) + "\n")

    def stage(self, work: Callable[..., Any], *args: Any) -> Any:
        """What ``work`` returns; None where it fails, which is recorded: the other stages are worth their time."""
        try:
            return work(*args)
        except Exception as error:
            self.result["failed"][work.__name__] = traceback.format_exc()
            self.say(f"{work.__name__} failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            return None
        finally:
            self.save()

    # ---- the stages

    def machine(self) -> None:
        from attnc.compiler.cli.timing import machine

        worker = self.worker("machine")
        self.result["machine"] = machine()
        self.result["gpu"] = worker.run({"kind": "machine", "device": self.args.device}, 60)
        worker.close()
        self.say(f"GPU: {self.result['gpu']}")

    def pool(self, tasks: Sequence[Task], share: float, timeout: float, what: str) -> list[Answer | None]:
        """Run tasks on all cores, a process each, until this share of the time is used."""
        one_thread = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        workers = [self.worker(what, **one_thread) for _ in range(min(self.args.jobs, len(tasks)))]
        finished = 0

        def done() -> None:
            nonlocal finished
            finished += 1
            if finished % 25 == 0 or finished == len(tasks):
                self.say(f"{what}: {finished} of {len(tasks)}")

        try:
            return run_all(tasks, workers, self.start + share * self.args.deadline, timeout, done)
        finally:
            for worker in workers:
                worker.close()

    def check(self) -> bool:
        """The pattern table; False if anything is wrong."""
        import gpu_checks

        tasks = [task | {"device": self.args.device} for task in gpu_checks.tasks(self.args.dry)]
        answers = self.pool(tasks, CHECKS_SHARE, 120, "checks")
        wrong = []
        for task, answer in zip(tasks, answers, strict=True):
            found = answer and (answer.get("error") or answer["wrong"])
            if found:
                wrong.append({k: task[k] for k in ("pattern", "dtype", "direction")} | {"found": found})
        ran = sum(a is not None for a in answers)
        counts = {"right": ran - len(wrong), "wrong": len(wrong), "not run": len(tasks) - ran}
        self.result["checks"] = counts | {"failures": wrong}
        self.say(f"checks: {counts}")
        for failure in wrong:
            print(f"  {failure}")
        return not wrong and ran == len(tasks)

    def prepare(self, cases: Sequence[Case]) -> None:
        """Have FlexAttention compiled, many cases at a time; searches for tiles wait for a GPU that is idle."""
        tasks = [{"kind": "prepare", "case": c.to_json(), "device": self.args.device} for c in cases if not c.tuned]
        answers = self.pool(tasks, PREPARE_SHARE, 120, "prepare")
        failed = [{"case": c.name} | a for c, a in zip((c for c in cases if not c.tuned), answers, strict=True)
                  if a is not None and "error" in a]  # fmt: skip
        self.result["prepared"] = {"cases": sum(a is not None for a in answers) - len(failed), "failures": failed}

    def measure(self, cases: Sequence[Case]) -> None:
        """One case after the other.  A pattern keeps its process, and with it what it compiled."""
        workers: dict[str, Worker] = {}
        compiled: set[tuple[str, int, str]] = set()
        rows: list[dict[str, Any]] = [{"case": c.name, "goals": c.goals, "error": "not run"} for c in cases]
        self.result["rows"] = rows
        try:
            for n, case in enumerate(cases):
                left = self.end - time.monotonic()
                if left < GRACE:
                    break
                worker = workers.setdefault(case.pattern, self.worker("measure"))
                task = {"kind": "measure", "case": case.to_json(), "device": self.args.device}
                answer = worker.run(task | {"tuned": case.tuned}, min(left, CASE_SECONDS))
                left = self.end - time.monotonic()
                if case.tuned and "error" in answer and left > GRACE:
                    self.say(f"{case.name}: {answer['error']}; again, with FlexAttention's default tiles")
                    answer = worker.run(task | {"tuned": False}, min(left, CASE_SECONDS))
                kernels = case.pattern, case.width, case.direction
                rows[n] = {"case": case.name, "cold": kernels not in compiled} | self.answered(answer, case)
                compiled.add(kernels)
                self.say(f"{case.name}: {line(rows[n])}")
                self.save()
        finally:
            for worker in workers.values():
                worker.close()

    def answered(self, answer: Answer, case: Case) -> dict[str, Any]:
        import gpu_machine

        found = answer | {"goals": case.goals}
        copy = self.result["gpu"].get("copy_gb_per_s")
        if copy and "attnc" in answer.get("gb_per_s", {}):
            found["of copy's bandwidth"] = round(answer["gb_per_s"]["attnc"] / copy, 3)
            found["goal of copy's bandwidth"] = BANDWIDTH_GOAL if case.length == 65536 else None
        return found | {"state": gpu_machine.state() if self.args.device != "cpu" else {}}


def line(row: dict[str, Any]) -> str:
    if "error" in row:
        return str(row["error"])
    parts = [f"{ratio:.2f}x {rival}" for rival, ratio in row.get("ratio", {}).items()]
    parts += [f"{name} absent: {why[:90]}" for name, why in row["absent"].items()]
    return ", ".join(parts + ([] if row.get("right") else ["RESULTS DIFFER, or none"]))


def show(result: dict[str, Any]) -> None:
    """The rows that were measured, ratio first."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="times faster than the rival (goal)", title_justify="left", title_style="")
    for head in ("case", *RIVALS, "ours ms", "TFLOP/s", "spread", "first call s", "Flex mask s"):
        table.add_column(head, justify="left" if head == "case" else "right")
    for row in result["rows"]:
        if "median_ms" not in row or "attnc" not in row["median_ms"]:
            continue
        goals = {n: f" ({g:g})" for n, g in row["goals"].items()}
        ratios = (f"{row['ratio'][n]:.2f}{goals.get(n, '')}" if n in row["ratio"] else "" for n in RIVALS)
        own = (f"{row[key]['attnc']:.4g}" for key in ("median_ms", "tflops", "spread"))
        first = f"{row['first_call_s']['attnc']:.2f}" if row["cold"] else ""
        mask = row["setup_s"].get(FLEX, 0.0)  # the first case that needs a mask makes it
        table.add_row(row["case"], *ratios, *own, first, f"{mask:.2f}" if mask >= 0.005 else "")
    Console(width=150).print(table)
    slow = [r["case"] for r in result["rows"] if r.get("first_call_s", {}).get("attnc", 0) > FIRST_CALL_GOAL]
    if slow:
        print(f"first calls over {FIRST_CALL_GOAL:g} s: {', '.join(slow)}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--list", action="store_true", help="print the plan and stop")
    parser.add_argument("--quick", action="store_true", help="4k tokens only")
    parser.add_argument("--only", default="", metavar="WORDS", help="cases whose name holds all these words")
    parser.add_argument("--no-checks", action="store_true", help="measure only")
    parser.add_argument("--no-speed", action="store_true", help="check only")
    parser.add_argument("--deadline", type=float, default=500, help="seconds for all; default: %(default)g")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 16), help="processes that compile")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--dry", action="store_true", help="tiny sizes, to test this script: --device cpu --dry")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of gpu.json, gpu.png and logs")
    args = parser.parse_args(argv)
    if args.device == "cpu" and not args.dry:
        parser.error("without a GPU only --dry runs: the Triton kernels are interpreted")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    cases = [c for c in plan(args.quick, args.dry) if all(word in c.name.split() for word in args.only.split())]
    if args.list:
        for case in cases:
            goals = ", ".join(f"{goal:g}x {rival}" for rival, goal in case.goals.items())
            print(f"{case.name:<36}{' x '.join(map(str, case.shapes[1])):<22}{goals}")
        print(
            f"{len(cases)} cases in this order, no new one after {args.deadline:g} s: checks have the first "
            f"{CHECKS_SHARE:.0%} of them, FlexAttention's compiler what is left of {PREPARE_SHARE:.0%}",
            file=sys.stderr,
        )
        return 0
    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        print(
            f"packages are missing: {', '.join(lacking)}. Without network put their wheels into wheels/, as "
            "docs/gpu.md says, and carry that folder along: git ignores it",
            file=sys.stderr,
        )
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(args, Path(folder))
        run.stage(run.machine)
        right = args.no_checks or run.stage(run.check)
        if not args.no_speed:
            run.stage(run.prepare, cases)
            run.stage(run.measure, cases)
            run.stage(show, run.result)
            picture = args.out / "gpu.png"
            if run.stage(draw, run.result["rows"], str(run.result["gpu"].get("name")), picture):
                print(picture)
    print(run.path)
    return 0 if right and not run.result["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
