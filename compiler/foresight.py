"""The gradient of a function, begun before it is asked for: while its forward kernels compile, Python is idle.

Nobody waits for its kernels before the gradient is asked for: they compile beside the forward ones, the first forward,
and what the caller does until then.  Of all functions, the newest one's gradient is kept, until it is asked for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..ir.attn import func_of
from ..ir.errors import AttncError
from .lowering import Gradient, Request
from .plan import Plan
from .plan_build import begin_plan

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

Question = tuple[str, tuple[int, ...], tuple[int, ...], Request]


class _Kept:
    """At most one plan, and what it answers."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.lock = threading.Lock()
        self.answer: tuple[Question, Callable[[], Plan]] | None = None


_kept = _Kept()
os.register_at_fork(after_in_child=_kept.renew)  # another thread of the parent may have held the lock


def foresee(key: str, make_module: Callable[[], ModuleOp], wanted: tuple[int, ...], request: Request) -> None:
    """Begin the gradient with respect to the arguments ``wanted``, given that of every result."""
    if request.settings.verify == "each" or request.settings.dump is not None:
        return  # who looks at passes wants to see them in order
    module = make_module()
    func = func_of(module)
    given = tuple(range(len(func.last.values)))
    try:
        finish = begin_plan(module, replace(request, gradient=Gradient.of(func, wanted, given)))
    except AttncError:
        return  # it is raised when the gradient is asked for
    with _kept.lock:
        _kept.answer = (key, wanted, given, request), finish


def take(key: str, wanted: Sequence[int], given: Sequence[int], request: Request) -> Callable[[], Plan] | None:
    """What waits for the plan, if it was begun."""
    with _kept.lock:
        if _kept.answer is None or _kept.answer[0] != (key, tuple(wanted), tuple(given), request):
            return None
        (_, finish), _kept.answer = _kept.answer, None
        return finish
