"""No process forks while a plan is built or a kernel compiled.

A child of a fork has one thread.  What the others held then (the lock of a module that was being imported, of LLVM)
nobody lets go of in the child, which hangs at its own first call.  So a fork waits until no other thread builds, which
is a second at most, and nobody begins meanwhile.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 10.0  # seconds; a thread that waits for the one that forks must not wait for ever


class _State:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.builders: Counter[int] = Counter()  # by thread

    def before(self) -> None:
        me = threading.get_ident()
        self.changed.acquire()
        self.changed.wait_for(lambda: set(+self.builders) <= {me}, PATIENCE)

    def after_in_parent(self) -> None:
        self.changed.release()

    def after_in_child(self) -> None:
        me = threading.get_ident()
        self.changed, self.builders = threading.Condition(), Counter({me: self.builders[me]})


_state = _State()
os.register_at_fork(before=_state.before, after_in_parent=_state.after_in_parent, after_in_child=_state.after_in_child)


@contextmanager
def building() -> Iterator[None]:
    """Inside, other threads that fork wait."""
    me = threading.get_ident()
    with _state.changed:
        _state.builders[me] += 1
    try:
        yield
    finally:
        with _state.changed:
            _state.builders[me] -= 1
            _state.changed.notify_all()
