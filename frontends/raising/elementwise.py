"""Rules for ops that work on one element at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ...ir.expr import FALSE, Const, Expr, Load, const, kind_of, op, rewrite
from ..graph import Node
from .terms import apply, kind_of_dtype, load, truth

if TYPE_CHECKING:
    from .values import Values

_BINARY = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floor_divide": "//", "remainder": "%", "pow": "pow",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "minimum": "min", "maximum": "max",
    "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "bitwise_left_shift": "<<", "bitwise_right_shift": ">>",
}  # fmt: skip
_UNARY = ("exp", "exp2", "log", "log2", "sqrt", "tanh", "sigmoid", "sin", "cos", "abs")
_LOGICAL = ("logical_and", "logical_or", "logical_xor", "logical_not")
_OTHER = ("neg", "rsqrt", "reciprocal", "square", "relu", "where", "masked_fill", "to", "clamp", "nan_to_num", "expm1")

# Costly functions, and functions that a kernel cannot say: of a tensor smaller than N_q x N_kv they run in PyTorch.
HEAVY = frozenset({"exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "sin", "cos", "pow", "softmax"})
ELEMENTWISE = frozenset((*_BINARY, *_UNARY, *_LOGICAL, *_OTHER))


def element(values: Values, node: Node, index: tuple[Expr, ...]) -> Expr | None:
    """The element of an elementwise ``node``; None when the op has no scalar form."""

    def arg(name: str) -> Expr:
        return operand(values, node, node.args[name], index)

    name = node.op
    if name in _BINARY:
        a, b = arg("input"), arg("other")
        if name == "pow":
            return _power(a, b)
        if name.startswith("bitwise_") and "float" in (kind_of(a), kind_of(b)):
            return None
        if name == "div" and kind_of(a) == kind_of(b) == "float" and isinstance(b, Const) and b.value:
            return apply("*", a, 1.0 / b.value) if math.frexp(b.value)[0] in (0.5, -0.5) else apply("/", a, b)
        return apply(_BINARY[name], a, b)
    if name in _UNARY:
        return apply(name, arg("input"))
    match name:
        case "logical_and":
            return op("and", truth(arg("input")), truth(arg("other")))
        case "logical_or":
            return op("or", truth(arg("input")), truth(arg("other")))
        case "logical_xor":
            a, b = truth(arg("input")), truth(arg("other"))
            return op("or", op("and", a, op("not", b)), op("and", b, op("not", a)))
        case "logical_not":
            return op("not", truth(arg("input")))
        case "neg":
            return apply("-", 0, arg("input"))
        case "rsqrt":
            return apply("/", 1.0, apply("sqrt", arg("input")))
        case "reciprocal":
            return apply("/", 1.0, arg("input"))
        case "square":
            return apply("*", arg("input"), arg("input"))
        case "relu":
            return apply("max", arg("input"), 0)
        case "where":
            return _choice(node, arg("condition"), arg("input"), arg("other"))
        case "masked_fill":
            return _choice(node, arg("mask"), arg("value"), arg("input"))
        case "to":
            return convert(arg("input"), kind_of_dtype(node.dtype))
    return None


def _power(a: Expr, b: Expr) -> Expr:
    if isinstance(b, Const) and b.value in (2, 2.0):
        return apply("*", a, a)
    return apply("pow", a, b)


def _choice(node: Node, cond: Expr, a: Expr, b: Expr) -> Expr:
    kind = kind_of_dtype(node.dtype)
    cond, a, b = truth(cond), convert(a, kind), convert(b, kind)
    if kind == "bool":
        return op("or", op("and", cond, a), op("and", op("not", cond), b))
    return op("where", cond, a, b)


def convert(e: Expr, kind: str) -> Expr:
    """``e`` as a value of another kind."""
    own = kind_of(e)
    if own == kind:
        return e
    if own == "bool":
        return op("where", e, 1.0, 0.0) if kind == "float" else op("where", e, 1, 0)
    return truth(e) if kind == "bool" else apply(kind, e)


def operand(values: Values, node: Node, value: Any, index: tuple[Expr, ...]) -> Expr:
    """An argument's element: a broadcast tensor, a number, or a scalar expression."""
    if isinstance(value, Node):
        return values.at(value, broadcast(value, index))
    if isinstance(value, Expr):
        return values.scalar(value)
    if isinstance(value, bool | int | float):
        return const(value)
    return FALSE if value is None else load(node, index)


def broadcast(source: Node, index: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The index of a broadcast operand: trailing dimensions, 0 where its size is 1."""
    tail = index[len(index) - source.rank :]
    return tuple(Const(0) if size == Const(1) else x for x, size in zip(tail, source.shape, strict=True))


def scalar_loads(values: Values, e: Expr) -> Expr:
    """Scalar arguments, named by label in size expressions, named by node."""

    def named(x: Expr) -> Expr | None:
        return load(values.scalars[x.tensor], ()) if isinstance(x, Load) and x.tensor in values.scalars else None

    return rewrite(e, named)
