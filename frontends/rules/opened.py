"""Functions of PyTorch that are written in Python and have no rule: traced through, op by op."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

from ...ir.errors import AttncError
from .unknown import unknown

if TYPE_CHECKING:
    from ..tracer import Tracer

_ASK = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


def opened(t: Tracer, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """What the body of ``func`` gives; a call to it where that has no body, or one that cannot be traced."""
    body = _body(func) if isinstance(func, FunctionType) else None
    if body is None:
        return unknown(t, func, name, args, kwargs)
    state = t.op, t.result, t.location
    try:
        return body(*args, **kwargs)
    except AttncError as error:
        t.op, t.result, t.location = state
        try:
            return unknown(t, func, name, args, kwargs)
        except AttncError:
            raise error from None


@cache
def _body(func: FunctionType) -> Callable[..., Any] | None:
    """``func`` without its question whether an argument is a tensor of another kind."""
    if not func.__module__.startswith("torch.") or not func.__code__.co_names or _ASK[0] not in func.__globals__:
        return None
    body = FunctionType(
        func.__code__,
        func.__globals__ | dict.fromkeys(_ASK, lambda *args: False),
        func.__name__,
        func.__defaults__,
        func.__closure__,
    )
    body.__kwdefaults__ = func.__kwdefaults__
    return body
