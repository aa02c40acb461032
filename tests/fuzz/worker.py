"""One process of ``python -m tests.fuzz``: a line of JSON for each program, and each failure reduced."""

from __future__ import annotations

import atexit
import itertools
import json
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from .checks import Refused, Unusable, check
from .programs import Program, programs
from .search import smallest_failure

EXAMPLES = 100  # of one seed


class TimeIsUp(BaseException):
    """Ends a search wherever it is."""


def work(first: int, backend: str, seconds: float, folder: Path) -> None:
    """Try programs until the time is up; the smallest one found for each failure is kept."""
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    warnings.simplefilter("ignore")
    deadline = time.monotonic() + seconds
    scratch = Path(tempfile.mkdtemp(prefix="attnc-fuzz-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    tried = itertools.count(1)
    for number in itertools.count():
        failed: list[tuple[Program, str]] = []
        over = _search(
            first * 1000 + number, partial(_attempt, backend, deadline, folder, scratch, tried, failed), failed
        )
        if failed:
            program, trace = failed[-1]
            script = folder / f"{backend}-{first}-{number}.py"
            script.write_text(f'{program.source()}\n"""\n{trace}"""\n')
            what = trace.strip().splitlines()[-1][:160]
            print(json.dumps({"kind": "failed", "what": what, "script": str(script)}), flush=True)
        if over:
            return


def _search(number: int, attempt: Callable[[Program], None], failed: list[tuple[Program, str]]) -> bool:
    """Look for a failure and reduce it; True when the time is up."""
    try:
        smallest_failure(number, EXAMPLES, programs(), attempt)
    except TimeIsUp:
        return True
    except Exception:
        if not failed:
            raise
    return False


def _attempt(
    backend: str,
    deadline: float,
    folder: Path,
    scratch: Path,
    tried: Iterator[int],
    failed: list[tuple[Program, str]],
    program: Program,
) -> None:
    if time.monotonic() > deadline:
        raise TimeIsUp
    count = next(tried)
    (folder / "current.py").write_text(program.source())
    try:
        twice = backend == "cpu" or count % 4 == 1
        deep = count % 8 == 5
        kind = "eager" if check(program, scratch, backend, count % 4 == 0, f"p{count}", twice, deep) else "fused"
    except (Unusable, Refused) as stopped:
        kind = type(stopped).__name__.lower()
    except Exception:
        failed.append((program, traceback.format_exc()))
        raise
    if not failed:  # programs tried while reducing are not counted
        print(json.dumps({"kind": kind}), flush=True)


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]))
