"""How long the first call takes: in a fresh process with an empty cache, and in a second process.

The clock starts when torch is imported and the inputs exist, and stops when the result is there: importing attnc,
capturing, compiling or loading, and running are all inside.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Comparison, arguments, save
from rich.console import Console
from rich.progress import track
from rich.table import Table

PROGRAM = """
import importlib.util, sys, time
import torch
q, k, v = torch.randn(3, 1, 8, 512, 64)
torch.softmax(q @ k.mT, -1) @ v  # starts torch's own threads
start = time.perf_counter()
spec = importlib.util.spec_from_file_location("quickstart", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
getattr(module, sys.argv[2])(q, k, v)
print(time.perf_counter() - start)
"""
QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.py"
GOALS = {"first process": 1.5, "second process": 0.2}


def call_in_new_process(pattern: str, cache: str) -> float:
    """Seconds of the first call in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(QUICKSTART), pattern],
        # a user's second process finds the first one's bytecode
        env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"ATTNC_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{pattern}: the process failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def main() -> None:
    args = arguments((__doc__ or "").split("\n", 1)[0], rounds=5)
    rounds = 1 if args.quick else args.rounds
    found: list[Comparison] = []
    for pattern in ("dense", "windowed", "dilated", "block", "hierarchical"):
        seconds: dict[str, list[float]] = {name: [] for name in GOALS}
        for _ in track(range(rounds), pattern, transient=True):
            with tempfile.TemporaryDirectory() as cache:
                for name in seconds:
                    seconds[name].append(call_in_new_process(pattern, cache))
        found.append(Comparison(pattern, seconds))

    table = Table(title="seconds of the first call, torch imported", title_justify="left", title_style="")
    table.add_column("pattern")
    for name, goal in GOALS.items():
        table.add_column(f"{name} (goal {goal:g})", justify="right")
    for c in found:
        table.add_row(c.case, *(f"{statistics.median(c.seconds[name]):.2f}" for name in GOALS))
    Console().print(table)
    if not args.quick:
        print(save("startup", found, {"rounds": rounds, "goals": GOALS}))


if __name__ == "__main__":
    main()
