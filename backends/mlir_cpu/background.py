"""Work on threads of its own, at most as many at a time as there are cores."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ..forking import building
from ..host import cores

T = TypeVar("T")


class _Limit:
    """How many threads may work."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.free = threading.Semaphore(cores())


_limit = _Limit()
os.register_at_fork(after_in_child=_limit.renew)  # the parent's threads, which held some, are not in the child


def begin(work: Callable[[], T]) -> Callable[[], T]:
    """Start ``work``; what it returns or raises comes from the function returned, which waits for it."""
    future: Future[T] = Future()

    def run() -> None:
        with _limit.free, building():
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

    # Not a daemon: a process that ends in the middle of a foreign call may crash.
    threading.Thread(target=run, name="attnc").start()
    return future.result
