"""Python's garbage collector at rest while something is compiled.

A compilation allocates much and frees little before its end, and a collection looks at everything that PyTorch and
the user keep alive: together they took a third of the time to a first result.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_users = 0  # compilations under way that found the collector on, or at rest because of others


@contextmanager
def resting() -> Iterator[None]:
    """No collections inside, unless the collector was switched on by hand; outside it is as it was."""
    global _users
    with _lock:
        mine = bool(_users) or gc.isenabled()
        if mine:
            _users += 1
            gc.disable()
    try:
        yield
    finally:
        if mine:
            _wake()


def _wake() -> None:
    global _users
    with _lock:
        _users -= 1
        if not _users:
            gc.enable()


def _after_fork() -> None:
    # The parent's compilations do not go on here, and another thread may have held the lock.
    global _users
    _lock._at_fork_reinit()  # type: ignore[attr-defined]
    if _users:
        _users = 0
        gc.enable()


os.register_at_fork(after_in_child=_after_fork)
