"""Expressions as JavaScript, so that a page evaluates the formulas of a kernel, not a table of them.

``//`` and ``%`` floor as in Python; numbers are exact below 2**53.  Variables are properties of ``v``.
"""

from __future__ import annotations

import json
import math

from ...ir.expr import Const, Expr, Op, Var

# What the generated code calls.
PRELUDE = """\
const fd = (a, b) => Math.floor(a / b);
const md = (a, b) => a - b * Math.floor(a / b);
const bits = (f, a, b) => Number(f(BigInt(a), BigInt(b)));
"""

_INFIX = {"+", "-", "*", "/", "<", "<=", ">", ">=", "=="} | {"!="}
_LOGIC = {"and": "&&", "or": "||"}
_BITS = {"&", "|", "^", "<<", ">>"}
_CALLS = {
    "//": "fd", "%": "md", "min": "Math.min", "max": "Math.max", "abs": "Math.abs", "pow": "Math.pow",
    "int": "Math.trunc", "float": "Number", "floor": "Math.floor", "ceil": "Math.ceil", "exp": "Math.exp",
    "log": "Math.log", "log2": "Math.log2", "sqrt": "Math.sqrt", "tanh": "Math.tanh", "sin": "Math.sin",
    "cos": "Math.cos",
}  # fmt: skip


def function(e: Expr) -> str:
    """``(v) => ...``; raises ValueError for an expression that reads a tensor."""
    return f"(v) => {expression(e)}"


def expression(e: Expr) -> str:
    """The expression with every operation in brackets."""
    match e:
        case Const(bool() as value):
            return "true" if value else "false"
        case Const(value):
            if isinstance(value, float) and not math.isfinite(value):
                return "NaN" if value != value else "Infinity" if value > 0 else "(-Infinity)"
            return f"({value!r})" if value < 0 else repr(value)
        case Var(name):
            return f"v[{json.dumps(name)}]" if not name.isidentifier() or not name.isascii() else f"v.{name}"
        case Op(name, args):
            return _operation(name, [expression(a) for a in args])
    raise ValueError(f"{e} depends on data")


def _operation(name: str, args: list[str]) -> str:
    if name in _INFIX:
        return f"({args[0]} {name} {args[1]})"
    if name in _LOGIC:
        return f"({args[0]} {_LOGIC[name]} {args[1]})"
    if name in _BITS:
        return f"bits((a, b) => a {name} b, {', '.join(args)})"
    match name:
        case "not":
            return f"(!{args[0]})"
        case "where":
            return f"({args[0]} ? {args[1]} : {args[2]})"
        case "exp2":
            return f"(2 ** {args[0]})"
        case "sigmoid":
            return f"(1 / (1 + Math.exp(-{args[0]})))"
    return f"{_CALLS[name]}({', '.join(args)})"
