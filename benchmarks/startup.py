"""How long the first call takes: in a fresh process with an empty cache, and in a second process.

PyTorch is imported, has run eagerly, and the inputs exist.  ``import`` is the time to import attnc as far as the
decorator needs; ``forward`` then is the first call, with all imports, capturing, compiling or loading, and running in
it; ``backward`` the first backward after it.
"""

from __future__ import annotations

import json
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
import importlib.util, json, sys, time
import torch
q, k, v = (torch.randn(1, 8, 512, 64, requires_grad=True) for _ in range(3))
out = torch.softmax(q @ k.mT, -1) @ v
out.backward(torch.ones_like(out))  # starts torch's own threads, and imports what it imports late
times = [time.perf_counter()]
import attnc
attnc.compile
times.append(time.perf_counter())
spec = importlib.util.spec_from_file_location("quickstart", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
with torch.set_grad_enabled(sys.argv[3] == "backward"):
    out = getattr(module, sys.argv[2])(q, k, v)
times.append(time.perf_counter())
if sys.argv[3] == "backward":
    out.backward(torch.ones_like(out))
times.append(time.perf_counter())
print(json.dumps([b - a for a, b in zip(times, times[1:])]))
"""
QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart.py"
# seconds; from the disk cache imports do not count
GOALS = {"forward": 0.5, "forward + backward": 0.8, "forward, cached": 0.02, "forward + backward, cached": 0.04}


def call_in_new_process(pattern: str, mode: str, cache: str) -> list[float]:
    """Seconds of the import, the first call and the first backward in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(QUICKSTART), pattern, mode],
        # a user's second process finds the first one's bytecode
        env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"ATTNC_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{pattern}: the process failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    args = arguments((__doc__ or "").split("\n", 1)[0], rounds=5)
    rounds = 1 if args.quick else args.rounds
    found: list[Comparison] = []
    for pattern in ("dense", "windowed", "dilated", "block", "hierarchical"):
        seconds: dict[str, list[float]] = {name: [] for name in GOALS}
        for _ in track(range(rounds), pattern, transient=True):
            for mode, name in (("forward", "forward"), ("backward", "forward + backward")):
                with tempfile.TemporaryDirectory() as cache:
                    seconds[name].append(sum(call_in_new_process(pattern, mode, cache)))
                    seconds[f"{name}, cached"].append(sum(call_in_new_process(pattern, mode, cache)[1:]))
        found.append(Comparison(pattern, seconds))

    table = Table(title="milliseconds to the first result, torch imported", title_justify="left", title_style="")
    table.add_column("pattern")
    for name, goal in GOALS.items():
        table.add_column(f"{name}\n(goal {1e3 * goal:g})", justify="right")
    for c in found:
        table.add_row(c.case, *(f"{1e3 * statistics.median(c.seconds[name]):.0f}" for name in GOALS))
    Console().print(table)
    if not args.quick:
        print(save("startup", found, {"rounds": rounds, "goals": GOALS}))


if __name__ == "__main__":
    main()
