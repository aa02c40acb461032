"""What is checked of one program in eight: the same code from another process, and as many pairs as predicted."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attnc
from attnc.compiler.coverage import coverage, loops_of
from attnc.ir.expr import evaluate
from attnc.ir.tile import KernelOp, kernels_of

ROOT = Path(__file__).resolve().parents[2]
MOST_TASKS = 4096  # of a kernel that is counted task by task


def deeper(lowered: Any, path: Path, backend: str) -> None:
    """Check the lowered function of the program in a file."""
    _check_pairs(lowered)
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.fuzz.deeper", str(path), backend]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"another process cannot compile it: {done.stderr[-500:]}"
    assert done.stdout.split()[-1] == _digest(lowered), "another process makes other code of it"


def _digest(lowered: Any) -> str:
    texts = [lowered.ir("attn"), lowered.ir("tile"), lowered.source()]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _check_pairs(lowered: Any) -> None:
    """What ``explain`` predicts in closed form, task by task."""
    sizes = {name: n for name, n in lowered.hints.items() if isinstance(n, int)}
    for kernel in kernels_of(lowered.module("tile")).values():
        predicted = coverage(kernel, sizes)
        tasks = list(itertools.islice(_tasks(kernel, sizes), MOST_TASKS + 1))
        if len(tasks) <= MOST_TASKS:
            found = sum(_pairs(kernel, task) for task in tasks)
            name = kernel.sym_name.data
            assert found == predicted.computed_pairs, (
                f"{name} computes {found} pairs, and {predicted.computed_pairs} are predicted"
            )


def _tasks(kernel: KernelOp, sizes: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    dims = kernel.grid.data
    for point in itertools.product(*(range(int(evaluate(d.extent, sizes))) for d in dims)):
        yield {**sizes, **{d.name: x for d, x in zip(dims, point, strict=True)}}


def _pairs(kernel: KernelOp, task: Mapping[str, Any]) -> int:
    rows = kernel.rows.data
    live = min(max(int(evaluate(rows.bound, task)) - int(evaluate(rows.base, task)), 0), rows.size)
    ranges = [r for loop in loops_of(kernel) for r in loop.ranges]
    return live * sum(max(int(evaluate(r.hi, task)) - int(evaluate(r.lo, task)), 0) for r in ranges)


if __name__ == "__main__":
    from .checks import load

    program = Path(sys.argv[1])
    module = load(program.read_text(), program.parent, program.stem)
    compiled = attnc.compile(module.attention, backend=sys.argv[2], fallback="silent")
    print(_digest(compiled.lower(*module.example_inputs())))
