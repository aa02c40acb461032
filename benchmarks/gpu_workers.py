"""Processes for the tasks of the GPU run: replaced when they die, killed when they take too long."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Task = dict[str, Any]
Answer = dict[str, Any]
WORKER = Path(__file__).with_name("gpu_worker.py")
GRACE = 2.0  # seconds below which no task is started


class Worker:
    """One process at a time; it keeps what it compiled from task to task."""

    def __init__(self, log: Path, environment: dict[str, str] | None = None):
        self.log, self.environment = log, {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[str] | None = None
        self.lines: queue.Queue[str] = queue.Queue()

    def run(self, task: Task, timeout: float) -> Answer:
        """The answer, or ``{"error": ...}``."""
        if self.process is None or self.process.poll() is not None:
            self._start()
        assert self.process is not None
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(task) + "\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=max(timeout, 0.1))
        except queue.Empty:
            self.close()
            return {"error": f"took longer than {timeout:.0f} s"}
        except OSError:
            line = ""
        if line:
            found: Answer = json.loads(line)
            return found
        process = self.process
        self.close()
        return {"error": f"its process ended with {process.returncode}; see {self.log.name}"}

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # with the compilers that it started
            self.process.wait()
            assert self.process.stdin is not None
            with contextlib.suppress(OSError):  # a task that the dead process did not read
                self.process.stdin.close()
            self.reader.join()
        self.process = None

    def _start(self) -> None:
        self.close()
        self.lines = queue.Queue()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=self.environment, start_new_session=True,
            )  # fmt: skip
        self.reader = threading.Thread(target=_read, args=(self.process, self.lines), daemon=True)
        self.reader.start()


def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put("")  # the process is gone


def run_all(
    tasks: Sequence[Task], workers: Sequence[Worker], until: float, timeout: float, done: Callable[[], None]
) -> list[Answer | None]:
    """The answers in the order of the tasks; None for those that the time did not reach."""
    answers: list[Answer | None] = [None] * len(tasks)
    waiting = iter(list(enumerate(tasks)))
    lock = threading.Lock()

    def serve(worker: Worker) -> None:
        while (left := until - time.monotonic()) > GRACE:
            with lock:
                item = next(waiting, None)
            if item is None:
                return
            answer = worker.run(item[1], min(left, timeout))
            with lock:
                answers[item[0]] = answer
                done()

    threads = [threading.Thread(target=serve, args=(w,)) for w in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers
