"""The value of expressions for whole numpy arrays of indices at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...ir.expr import OPS, Const, Expr, Load, Op, Var, loads, remembered


def _power(a: Any, b: Any) -> Any:
    """``a ** b``; of integers an integer, which a negative power rounds towards 0."""
    if np.result_type(a, b).kind == "f":
        return np.power(a, b)
    a, b = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
    return np.where(b < 0, np.trunc(np.power(a.astype(np.float64), b)), np.power(a, np.maximum(b, 0))).astype(np.int64)


_ARRAY_OPS: dict[str, Callable[..., Any]] = {
    "and": np.logical_and, "or": np.logical_or, "not": np.logical_not, "where": np.where, "min": np.minimum,
    "max": np.maximum, "abs": np.abs, "pow": _power,
    "int": lambda a: np.asarray(a).astype(np.int64), "float": lambda a: np.asarray(a).astype(np.float64),
    "floor": lambda a: np.floor(a).astype(np.int64), "ceil": lambda a: np.ceil(a).astype(np.int64),
    "exp": np.exp, "exp2": np.exp2, "log": np.log, "log2": np.log2, "sqrt": np.sqrt, "tanh": np.tanh,
    "sin": np.sin, "cos": np.cos, "sigmoid": lambda a: 1 / (1 + np.exp(-np.asarray(a, dtype=np.float64))),
}  # fmt: skip


@remembered
def countable(e: Expr) -> bool:
    """Can the value be computed from indices and sizes alone?"""
    return not loads(e)


def array_value(e: Expr, env: Mapping[str, Any]) -> Any:
    """The value of ``e`` for arrays (or numbers) that broadcast.  It must be :func:`countable`."""
    match e:
        case Const(value):
            return value
        case Var(name, _):
            return env[name]
        case Load():
            raise TypeError(f"cannot evaluate {e} without its tensors")
        case Op(name, args):
            # a size of 0 divides, or a branch that is not taken overflows: nothing is asked of such a point
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                return (_ARRAY_OPS.get(name) or OPS[name][1])(*(array_value(a, env) for a in args))
    raise TypeError(f"not an expression: {e!r}")


def integer_bound(name: str, value: float) -> Expr | None:
    """The integer to compare with in place of a float: ``x <= 3.5`` is ``x <= 3``."""
    if not math.isfinite(value) or abs(value) > 2**53:
        return None
    if value == int(value):
        return Const(int(value))
    match name:
        case "<=" | ">":
            return Const(math.floor(value))
        case "<" | ">=":
            return Const(math.ceil(value))
    return None
