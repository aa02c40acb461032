"""Many threads, forks and signals at once, and a thousand patterns in one process.

    python tests/stress/threads.py                  # all of it, about five minutes
    python tests/stress/threads.py --only threads signals

- ``threads``: 16 threads make the first calls of 8 functions, forward and backward, at the same instant; each function
  is compiled once, and all numbers are right.
- ``forks``: processes are forked while other threads compile; each child compiles and calls by itself.
- ``spawn``: fresh processes, of multiprocessing's other kind, take a compiled function as an argument.
- ``signals``: a signal every millisecond while a function is compiled; and Ctrl-C at random instants, after which the
  same function still works.
- ``processes``: 50 processes compile the same and different things in one empty cache folder.
- ``patterns``: a thousand patterns in one process; the memory of the last hundred is what the first hundred took.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import attnc
from attnc.compiler import driver
from tests.stress.work import banded, call, check, expected


def threads(count: int = 16, kinds: int = 8) -> None:
    functions = [attnc.compile(banded(40 + n), backend="cpu", fallback="error") for n in range(kinds)]
    for n in range(kinds):
        expected(40 + n)  # PyTorch's part, before the threads meet
    builds: list[str] = []
    plain = driver._compile

    def counted(*args: object) -> object:
        builds.append(threading.current_thread().name)
        return plain(*args)  # type: ignore[arg-type]

    driver._compile = counted  # type: ignore[assignment]
    failures: list[str] = []
    start = threading.Barrier(count)

    def work(number: int) -> None:
        try:
            start.wait()
            for n in range(kinds):
                check(functions[(number + n) % kinds], 40 + (number + n) % kinds, backward=bool(number % 2))
        except BaseException:
            failures.append(traceback.format_exc())

    try:
        workers = [threading.Thread(target=work, args=(n,)) for n in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        driver._compile = plain
    assert not failures, failures[0]
    assert len(builds) == kinds, f"{len(builds)} builds of {kinds} functions"


def forks(count: int = 12) -> None:
    stop = threading.Event()

    def compile_on() -> None:
        reach = 100
        while not stop.is_set():
            call(reach, {"cache": "off"}, backward=True)
            reach += 1

    background = threading.Thread(target=compile_on)
    background.start()
    try:
        for n in range(count):
            time.sleep(random.Random(n).random() * 0.3)
            expected(n)  # eager products wait in a child for threads of OpenMP that it has not
            child = os.fork()
            if child == 0:
                try:
                    call(n, {"cache": "off"}, backward=True)
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
            wait(child)
    finally:
        stop.set()
        background.join()


def wait(child: int, seconds: float = 120) -> None:
    """Wait for a forked child that must end well, and in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert status == 0, f"a forked child ended with {os.waitstatus_to_exitcode(status)}"
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("a forked child hangs")


@attnc.compile(backend="cpu", fallback="error")
def module_level(q, k, v):  # type: ignore[no-untyped-def]
    return banded(7)(q, k, v)


def _spawned(function: attnc.CompiledAttention) -> None:
    check(function, 7, backward=True)


def spawn(count: int = 3) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_spawned, args=(module_level,)) for _ in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0, f"a spawned process ended with {worker.exitcode}"


def signals(rounds: int = 20) -> None:
    seen = 0

    def notice(*_: object) -> None:
        nonlocal seen
        seen += 1

    before = signal.signal(signal.SIGALRM, notice)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        call(200, {"cache": "off"}, backward=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen > 10, "hardly a signal came"

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background process ignores it
    choose = random.Random(0)
    lost: list[float] = []
    for n in range(rounds):
        function = attnc.compile(banded(300 + n), backend="cpu", fallback="error")
        after = choose.random() * 0.4
        timer, stopped = threading.Timer(after, signal.raise_signal, (signal.SIGINT,)), 0
        timer.start()
        try:
            check(function, 300 + n, backward=True)
        except KeyboardInterrupt:
            stopped += 1
        try:
            timer.join()
            time.sleep(0.001)
        except KeyboardInterrupt:
            stopped += 1
        check(function, 300 + n, backward=True)
        lost += [] if stopped else [after]
    assert not lost, f"interrupts {lost} seconds after a call were lost"


def _first_call(number: int, gate: threading.Event) -> None:
    gate.wait()
    call(number % 5, backward=number % 3 == 0)


def processes(count: int = 50) -> None:
    context = multiprocessing.get_context("fork")
    gate = context.Event()
    workers = [context.Process(target=_first_call, args=(n, gate)) for n in range(count)]
    for worker in workers:
        worker.start()
    gate.set()
    for worker in workers:
        worker.join(300)
        assert worker.exitcode == 0, f"a process ended with {worker.exitcode}"


def patterns(count: int = 1000) -> None:
    grown: list[int] = []
    before = resident()
    for n in range(count):
        call(n)
        if n % 100 == 99:
            now = resident()
            grown.append(now - before)
            before = now
    # the first hundred pay for imports and arenas as well
    usual = statistics.median(grown[1:])
    assert max(grown[1:]) <= 2 * max(usual, 8 << 20), [g >> 20 for g in grown]
    print(f"  MiB for each hundred patterns: {[g >> 20 for g in grown]}")


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


CASES: dict[str, Callable[[], None]] = {f.__name__: f for f in (processes, threads, forks, spawn, signals, patterns)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ATTNC_CACHE_DIR"] = folder
        for name in args.only:
            start = time.monotonic()
            try:
                CASES[name]()
                result = "ok"
            except Exception:
                traceback.print_exc()
                result, failed = "FAILED", failed + 1
            print(f"{name}: {result} in {time.monotonic() - start:.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
