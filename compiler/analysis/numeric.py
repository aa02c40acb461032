"""The value of expressions for whole numpy arrays of indices at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...ir.expr import OPS, Const, Expr, Load, Op, Var, loads, remembered

_ARRAY_OPS: dict[str, Callable[..., Any]] = {
    "and": np.logical_and, "or": np.logical_or, "not": np.logical_not, "where": np.where, "min": np.minimum,
    "max": np.maximum, "abs": np.abs, "pow": lambda a, b: np.power(np.asarray(a, dtype=np.int64), b),
    "int": lambda a: np.asarray(a).astype(np.int64), "float": lambda a: np.asarray(a).astype(np.float64),
    "floor": lambda a: np.floor(a).astype(np.int64), "ceil": lambda a: np.ceil(a).astype(np.int64),
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
        case Op("//" | "%" as name, (x, y)):
            with np.errstate(divide="ignore", invalid="ignore"):  # by a size of 0: nothing is asked of such a point
                return OPS[name][1](array_value(x, env), array_value(y, env))
        case Op(name, args):
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
