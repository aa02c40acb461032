"""``python -m tests.fuzz``: random programs until the time is up; what fails becomes a script in ``build/fuzz``.

Programs run in a process of their own, so that a crash of generated code is a finding like any other.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

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
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with contextlib.suppress(KeyboardInterrupt), Progress(*columns, console=console) as progress:
        found = Findings(progress, progress.add_task("programs", total=seconds))
        for batch in itertools.count():
            left = found.started + seconds - time.monotonic()
            if left <= 1:
                break
            found.batch(seed + batch, backends[batch % len(backends)], min(left, BATCH), folder)
    tally, failed = found.tally, found.failed
    console.print(f"{sum(tally.values())} programs from seed {seed}: {dict(sorted(tally.items()))}", highlight=False)
    console.print(f"{failed} findings" if failed else "nothing found")
    return int(bool(failed))


class Findings:
    """What came out so far, and where it is shown."""

    def __init__(self, progress: Progress, bar: TaskID):
        self.progress, self.bar, self.started = progress, bar, time.monotonic()
        self.tally, self.failed = collections.Counter[str](), 0

    def batch(self, seed: int, backend: str, seconds: float, folder: Path) -> None:
        """Programs in one process."""
        command = [sys.executable, "-m", "tests.fuzz.worker", str(seed), backend, str(seconds), str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            try:
                for line in worker.stdout:
                    self._program(json.loads(line))
            except KeyboardInterrupt:
                worker.terminate()
                raise
        if worker.returncode:
            current, crash = folder / "current.py", folder / f"crash-{backend}-{seed}.py"
            crash.write_text(current.read_text() if current.exists() else "")
            self._failure(f"the process ended with status {worker.returncode}", str(crash))

    def _program(self, result: dict[str, Any]) -> None:
        self.tally[result["kind"]] += 1
        if "script" in result:
            self._failure(result["what"], result["script"])
        done = ", ".join(f"{count} {kind}" for kind, count in sorted(self.tally.items()))
        self.progress.update(self.bar, completed=time.monotonic() - self.started, description=done)

    def _failure(self, what: str, script: str) -> None:
        self.failed += 1
        self.progress.console.print(f"[red]{what}[/]: {script}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
