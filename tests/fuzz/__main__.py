"""``python -m tests.fuzz``: random programs until the time is up; what fails becomes a script in ``build/fuzz``.

Programs run in a process of their own, so that a crash of generated code is a finding like any other.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .checks import BACKENDS

BATCH = 300.0  # seconds of one process: what it keeps of its programs goes with it


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the first batch")
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="one or more; all by default, in turns")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="where failing programs go")
    arguments = parser.parse_args()
    return run(arguments.minutes * 60, arguments.seed, arguments.backend or list(BACKENDS), arguments.folder)


def run(seconds: float, seed: int, backends: list[str], folder: Path) -> int:
    """Fuzz for so long; 1 if anything failed."""
    console, tally = Console(), collections.Counter[str]()
    findings: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    text = TextColumn("{task.description}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    worker: subprocess.Popen[str] | None = None
    try:
        with Progress(text, BarColumn(), TimeRemainingColumn(), console=console) as progress:
            bar = progress.add_task("programs", total=seconds)
            started, batch = time.monotonic(), 0
            while (left := seconds - (time.monotonic() - started)) > 1:
                backend, current = backends[batch % len(backends)], folder / "current.py"
                command = [
                    sys.executable,
                    "-m",
                    "tests.fuzz.worker",
                    str(seed + batch),
                    backend,
                    str(min(left, BATCH)),
                    folder,
                ]
                worker = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
                assert worker.stdout is not None
                for line in worker.stdout:
                    result = json.loads(line)
                    tally[result["kind"]] += 1
                    if "script" in result:
                        findings[result["script"]] = result["what"]
                        progress.console.print(f"[red]{result['what']}[/]: {result['script']}", highlight=False)
                    done = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.items()))
                    progress.update(bar, completed=time.monotonic() - started, description=done)
                if worker.wait():
                    crash = folder / f"crash-{backend}-{seed + batch}.py"
                    crash.write_text(current.read_text() if current.exists() else "")
                    findings[str(crash)] = f"the process ended with status {worker.returncode}"
                    progress.console.print(f"[red]{findings[str(crash)]}[/]: {crash}", highlight=False)
                batch += 1
    except KeyboardInterrupt:
        if worker:
            worker.terminate()
    console.print(f"{sum(tally.values())} programs from seed {seed}: {dict(sorted(tally.items()))}", highlight=False)
    console.print(f"{len(findings)} findings" if findings else "nothing found")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
