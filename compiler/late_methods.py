"""Methods of data classes, compiled when they are first called.

Python before 3.13 writes six methods for a frozen data class and compiles each by itself.  xDSL and attnc have hundreds
of such classes, most of which nobody ever prints, compares or assigns to, and that took a third of a first call.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_create: Any = getattr(dataclasses, "_create_fn", None)  # absent from Python 3.13 on, which compiles once for a class


def _late(name: str, args: Any, body: Any, **where: Any) -> Callable[..., Any]:
    """Stands for ``dataclasses._create_fn``."""
    if name == "__init__":  # called soon, and its signature is looked at
        return _create(name, args, body, **where)
    made: Callable[..., Any] | None = None

    def method(self: Any, *others: Any) -> Any:
        nonlocal made
        if made is None:
            made = _create(name, args, body, **where)
            made.__qualname__ = method.__qualname__
            for cls in type(self).__mro__:
                if cls.__dict__.get(name) is method:
                    setattr(cls, name, made)
        return made(self, *others)

    method.__name__ = name
    return method


class _State:
    """How many imports are under way."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0

    def enter(self, change: int) -> None:
        with self.lock:
            self.users += change
            dataclasses._create_fn = _late if self.users else _create  # type: ignore[attr-defined]

    def after_fork(self) -> None:
        # The parent's imports do not go on here, and another thread may have held the lock.
        self.lock = threading.Lock()
        self.enter(-self.users)


_state = _State()
if _create:
    os.register_at_fork(after_in_child=_state.after_fork)


@contextmanager
def late_methods() -> Iterator[None]:
    """Data classes that are defined inside get their methods late; these behave as if they had been there."""
    if _create is None:
        yield
        return
    _state.enter(1)
    try:
        yield
    finally:
        _state.enter(-1)
