"""Processes of the GPU run that die, hang or answer: each ends as a result, and the next task runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

WORKER = """
import json, os, sys, time
for line in sys.stdin:
    task = json.loads(line)
    if task["kind"] == "die": os._exit(3)
    if task["kind"] == "hang": time.sleep(60)
    print(json.dumps({"pid": os.getpid(), **task}), flush=True)
"""


@pytest.fixture
def gpu_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import gpu_workers

    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(gpu_workers, "WORKER", script)
    yield gpu_workers
    sys.modules.pop("gpu_workers", None)


def test_a_process_that_dies_or_hangs_is_an_answer_and_is_replaced(gpu_workers: Any, tmp_path: Path) -> None:
    worker = gpu_workers.Worker(tmp_path / "log")
    first = worker.run({"kind": "work"}, 20)
    assert worker.run({"kind": "work"}, 20)["pid"] == first["pid"]
    assert worker.run({"kind": "die"}, 20) == {"error": "its process ended with 3; see log"}
    second = worker.run({"kind": "work"}, 20)
    assert second["pid"] != first["pid"]
    assert worker.run({"kind": "hang"}, 0.5) == {"error": "took longer than 0 s"}
    assert worker.run({"kind": "work"}, 20)["pid"] != second["pid"]
    worker.close()


def test_what_the_time_does_not_reach_has_no_answer(gpu_workers: Any, tmp_path: Path) -> None:
    worker = gpu_workers.Worker(tmp_path / "log")
    done: list[None] = []
    until = time.monotonic() + gpu_workers.GRACE + 1.0
    tasks = [{"kind": "work"}, {"kind": "die"}, {"kind": "hang"}, {"kind": "work"}]
    answers = gpu_workers.run_all(tasks, [worker], until, 1.0, lambda: done.append(None))
    worker.close()
    assert answers[0]["kind"] == "work"
    assert "error" in answers[1]
    assert answers[3] is None
    assert len(done) == sum(a is not None for a in answers)
