"""Rules for ops that work on one element at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...ir.expr import FALSE, Const, Expr, Load, const, kind_of, op, rewrite
from ..graph import Node
from .terms import apply, has_loads, kind_of_dtype, load, truth

if TYPE_CHECKING:
    from .values import Values

_BINARY = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floor_divide": "//", "remainder": "%", "pow": "pow",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "minimum": "min", "maximum": "max",
    "bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", "bitwise_left_shift": "<<", "bitwise_right_shift": ">>",
}  # fmt: skip
_UNARY = ("exp", "exp2", "log", "log2", "sqrt", "tanh", "sigmoid", "sin", "cos", "abs")
_LOGICAL = ("logical_and", "logical_or", "logical_xor", "logical_not")
_OTHER = ("neg", "rsqrt", "reciprocal", "square", "relu", "where", "masked_fill", "to", "clamp", "nan_to_num")


def _softplus(x: Expr, beta: float = 1.0, threshold: float = 20.0) -> Expr:
    scaled = apply("*", x, beta)
    soft = apply("/", apply("log", apply("+", apply("exp", apply("min", scaled, threshold)), 1.0)), beta)
    return apply("where", apply(">", scaled, threshold), x, soft)


def _elu(x: Expr, alpha: float = 1.0) -> Expr:
    below = apply("*", apply("-", apply("exp", apply("min", x, 0.0)), 1.0), alpha)
    return apply("where", apply(">", x, 0.0), x, below)


def _gelu(x: Expr, approximate: str = "none") -> Expr | None:
    if approximate != "tanh":
        return None  # kernels have no erf
    cube = apply("*", x, apply("*", x, x))
    inner = apply("*", apply("+", x, apply("*", cube, 0.044715)), math.sqrt(2 / math.pi))
    return apply("*", apply("*", x, 0.5), apply("+", apply("tanh", inner), 1.0))


def _whole(name: str) -> Callable[[Expr], Expr | None]:
    """Rounding, of what depends on positions alone: a score may be larger than any integer."""
    return lambda x: None if has_loads(x) else x if kind_of(x) == "int" else apply("float", op(name, x))


def _clamped(x: Expr, low: float = -1.0, high: float = 1.0) -> Expr:
    return apply("min", apply("max", x, low), high)


def _trunc_divide(a: Expr, b: Expr) -> Expr | None:
    """Integer division towards zero, by a positive number."""
    if kind_of(a) != "int" or not (isinstance(b, Const) and isinstance(b.value, int) and b.value > 0):
        return None
    return apply("where", apply("<", a, 0), apply("-", 0, apply("//", apply("-", 0, a), b)), apply("//", a, b))


def _fmod(a: Expr, b: Expr) -> Expr | None:
    whole = _trunc_divide(a, b)
    return None if whole is None else apply("-", a, apply("*", whole, b))


# What PyTorch has a function for and kernels write with others; arguments beyond the first are numbers.
_WRITTEN: dict[str, Callable[..., Expr | None]] = {
    "log1p": lambda x: apply("log", apply("+", x, 1.0)),
    "expm1": lambda x: apply("-", apply("exp", x), 1.0),
    "log10": lambda x: apply("*", apply("log2", x), math.log10(2)),
    "floor": _whole("floor"),
    "ceil": _whole("ceil"),
    "silu": lambda x: apply("*", x, apply("sigmoid", x)),
    "softplus": _softplus,
    "logsigmoid": lambda x: apply("-", 0.0, _softplus(apply("-", 0.0, x))),
    "mish": lambda x: apply("*", x, apply("tanh", _softplus(x))),
    "gelu": _gelu,
    "elu": _elu,
    "leaky_relu": lambda x, slope=0.01: apply("where", apply(">", x, 0.0), x, apply("*", x, slope)),
    "hardtanh": _clamped,
    "relu6": lambda x: _clamped(x, 0.0, 6.0),
    "softsign": lambda x: apply("/", x, apply("+", apply("abs", x), 1.0)),
    "tanhshrink": lambda x: apply("-", x, apply("tanh", x)),
    "sign": lambda x: apply("-", apply(">", x, 0), apply("<", x, 0)),
    "sgn": lambda x: apply("-", apply(">", x, 0), apply("<", x, 0)),
    "isinf": lambda x: apply("==", apply("abs", x), math.inf),
    "isneginf": lambda x: apply("==", x, -math.inf),
    "isposinf": lambda x: apply("==", x, math.inf),
    "isfinite": lambda x: apply("<", apply("abs", x), math.inf),
    "hypot": lambda a, b: apply("sqrt", apply("+", apply("*", a, a), apply("*", b, b))),
    "trunc_divide": _trunc_divide,
    "fmod": _fmod,
}
_NUMBERS = {"negative_slope": "slope", "min_val": "low", "max_val": "high"}  # PyTorch's names of arguments, and ours

# Costly functions, and functions that a kernel cannot say: of a tensor smaller than N_q x N_kv they run in PyTorch.
HEAVY = frozenset({
    "exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "sin", "cos", "pow", "softmax", "log1p", "expm1",
    "log10", "silu", "softplus", "logsigmoid", "mish", "gelu", "elu", "tanhshrink", "hypot",
})  # fmt: skip
ELEMENTWISE = frozenset((*_BINARY, *_UNARY, *_LOGICAL, *_OTHER, *_WRITTEN))


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
    if name in _WRITTEN:
        return _written(node, arg)
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


def _written(node: Node, arg: Callable[[str], Expr]) -> Expr | None:
    numbers = {_NUMBERS.get(k, k): v for k, v in node.args.items() if k not in ("input", "other")}
    if any(isinstance(v, Node | Expr) for v in numbers.values()):
        return None
    rest = [numbers.pop(k) for k in sorted(numbers) if k.startswith("arg")]
    operands = [arg(name) for name in ("input", "other") if name in node.args]
    found = _WRITTEN[node.op](*operands, *rest, **numbers)
    return None if found is None else convert(found, kind_of_dtype(node.dtype))


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
