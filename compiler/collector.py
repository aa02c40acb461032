"""Python's garbage collector at rest while something is compiled.

A compilation allocates much and frees little before its end, and a collection looks at everything that PyTorch and
the user keep alive: together they took a third of the time to a first result.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_MANY = 30  # modules; fewer are a small part of what a compilation makes


class _State:
    """How many compilations are under way that found the collector on, or at rest because of others."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0

    def rest(self) -> bool:
        with self.lock:
            mine = bool(self.users) or gc.isenabled()
            if mine:
                self.users += 1
                gc.disable()
            return mine

    def wake(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                gc.enable()

    def after_fork(self) -> None:
        # The parent's compilations do not go on here, and another thread may have held the lock.
        self.lock = threading.Lock()
        if self.users:
            self.users = 0
            gc.enable()


_state = _State()
os.register_at_fork(after_in_child=_state.after_fork)


@contextmanager
def resting() -> Iterator[None]:
    """No collections inside, unless the collector was switched on by hand; outside it is as it was."""
    mine = _state.rest()
    modules = len(sys.modules)
    try:
        yield
    finally:
        if mine:
            if len(sys.modules) > modules + _MANY and not gc.get_freeze_count():
                # Modules stay, so there is no point in looking at all that is new: it counts as old at once.
                gc.freeze()
                gc.unfreeze()
            _state.wake()
