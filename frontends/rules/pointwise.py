"""Elementwise ops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .. import shapes
from ..sizes import hint_of
from ..traced import Traced
from .registry import RULES, rule

if TYPE_CHECKING:
    from ..tracer import Tracer

_SYMBOLS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floor_divide": "//", "remainder": "%", "pow": "**", "eq": "==",
    "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "bitwise_and": "&", "bitwise_or": "|",
    "bitwise_xor": "^", "bitwise_left_shift": "<<", "bitwise_right_shift": ">>",
}  # fmt: skip
_REVERSED = {"rsub": "sub", "rdiv": "div", "rfloordiv": "floor_divide", "rremainder": "remainder", "rpow": "pow",
             "rlshift": "bitwise_left_shift", "rrshift": "bitwise_right_shift"}  # fmt: skip
_UNARY = """exp exp2 expm1 log log2 log10 log1p sqrt rsqrt abs neg tanh sigmoid relu silu sin cos tan sinh cosh asin
acos atan erf erfc floor ceil round trunc frac sign sgn isnan isinf isfinite isneginf isposinf logical_not bitwise_not
gelu softplus logsigmoid elu leaky_relu hardtanh relu6 selu celu mish hardswish hardsigmoid tanhshrink softsign
nan_to_num lgamma digamma sinc"""
_FUNCTIONAL = """silu gelu softplus logsigmoid elu leaky_relu hardtanh relu6 mish hardswish hardsigmoid tanhshrink
softsign"""
_OF = dict.fromkeys(_FUNCTIONAL.split(), "torch.nn.functional.")


def tensors(*values: Any) -> list[Traced]:
    return [x for x in values if isinstance(x, Traced)]


def common(t: Tracer, *values: Any) -> shapes.Shape:
    """The broadcast shape of the tensors among ``values``."""
    return shapes.broadcast(t.graph, *(x.node.shape for x in tensors(*values)))


def _binary(name: str) -> Any:
    symbol = _SYMBOLS[name]

    def run(t: Tracer, input: Any, other: Any, *, alpha: Any = 1) -> Traced:
        if hint_of(alpha) != 1:
            result = t.result
            other, t.result = t(torch.mul, other, alpha) if isinstance(other, Traced) else other * alpha, result
        op = name.replace("bitwise", "logical") if t.result.dtype == torch.bool and "shift" not in name else name
        args = {"input": input, "other": other}
        return t.emit(op, args, common(t, input, other), f"({{input}} {symbol} {{other}})")

    return run


for _name in _SYMBOLS:
    rule(_name, probe=True)(_binary(_name))
for _name, _target in _REVERSED.items():
    rule(_name, probe=True)(lambda t, input, other, _f=RULES[_target]: _f(t, other, input))


@rule("div", probe=True)
def div(t: Tracer, input: Any, other: Any, *, rounding_mode: str | None = None) -> Traced:
    if rounding_mode is None:
        return _binary("div")(t, input, other)
    if rounding_mode == "floor":
        return _binary("floor_divide")(t, input, other)
    call = "torch.div({input}, {other}, rounding_mode='trunc')"
    return t.emit("trunc_divide", {"input": input, "other": other}, common(t, input, other), call)


@rule(
    "logical_and", "logical_or", "logical_xor", "atan2", "fmod", "hypot", "xlogy", "logaddexp", "copysign", probe=True
)
def _binary_function(t: Tracer, input: Any, other: Any) -> Traced:
    name = t.op
    return t.emit(
        name, {"input": input, "other": other}, common(t, input, other), f"torch.{name}({{input}}, {{other}})"
    )


@rule(*_UNARY.split(), probe=True)
def unary(t: Tracer, input: Traced, *rest: Any, inplace: bool = False, **more: Any) -> Traced:
    name = t.op
    if name == "bitwise_not":
        op = "logical_not" if t.result.dtype == torch.bool else name
        return t.emit(op, {"input": input}, input.node.shape, "(~{input})")
    args = (
        {"input": input}
        | {f"arg{n}": x for n, x in enumerate(rest, 1)}
        | {k: v for k, v in more.items() if v is not None}
    )
    holes = ["{input}"] + [f"{{arg{n}}}" for n in range(1, len(rest) + 1)]
    holes += [f"{k}={{{k}}}" for k in args if k != "input" and not k.startswith("arg")]
    return t.emit(name, args, input.node.shape, f"{_OF.get(name, 'torch.')}{name}({', '.join(holes)})")


@rule("log_sigmoid", probe=True)
def log_sigmoid(t: Tracer, input: Traced) -> Traced:
    return t.emit("logsigmoid", {"input": input}, input.node.shape, "torch.nn.functional.logsigmoid({input})")


@rule("square", probe=True)
def square(t: Tracer, input: Traced) -> Traced:
    return t(torch.mul, input, input)


@rule("reciprocal", probe=True)
def reciprocal(t: Tracer, input: Traced) -> Traced:
    return t(torch.Tensor.__rdiv__, input, 1)


@rule("where", probe=True)
def where(t: Tracer, condition: Traced, input: Any = None, other: Any = None) -> Traced:
    if condition.dtype != torch.bool and isinstance(input, Traced) and input.dtype == torch.bool:
        condition, input = input, condition  # x.where(condition, y)
    args = {"condition": condition, "input": input, "other": other}
    return t.emit("where", args, common(t, condition, input, other), "torch.where({condition}, {input}, {other})")


@rule("masked_fill", probe=True)
def masked_fill(t: Tracer, input: Traced, mask: Traced, value: Any) -> Traced:
    args = {"input": input, "mask": mask, "value": value}
    return t.emit("masked_fill", args, common(t, input, mask), "torch.masked_fill({input}, {mask}, {value})")


def _extreme(t: Tracer, name: str, a: Any, b: Any) -> Traced:
    args = {"input": a, "other": b}
    if isinstance(a, Traced) and isinstance(b, Traced):
        call = f"torch.{name}({{input}}, {{other}})"
    else:
        call = f"torch.clamp({{input}}, {'max' if name == 'minimum' else 'min'}={{other}})"
    return t.emit(name, args, common(t, a, b), call)


@rule("maximum", "minimum", "fmax", "fmin", probe=True)
def extreme(t: Tracer, input: Any, other: Any) -> Traced:
    return _extreme(t, {"fmax": "maximum", "fmin": "minimum"}.get(t.op, t.op), input, other)


@rule("clamp", probe=True)
def clamp(t: Tracer, input: Traced, min: Any = None, max: Any = None) -> Traced:
    for name, bound in (("maximum", min), ("minimum", max)):
        if bound is not None:
            input = _extreme(t, name, input, bound)
    return input


@rule("clamp_min", probe=True)
def clamp_min(t: Tracer, input: Traced, min: Any) -> Traced:
    return _extreme(t, "maximum", input, min)


@rule("clamp_max", probe=True)
def clamp_max(t: Tracer, input: Traced, max: Any) -> Traced:
    return _extreme(t, "minimum", input, max)


@rule("addcmul", probe=True)
def addcmul(t: Tracer, input: Traced, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Traced:
    return t(torch.add, input, t(torch.mul, tensor1, tensor2), alpha=value)


@rule("lerp", probe=True)
def lerp(t: Tracer, input: Traced, end: Traced, weight: Any) -> Traced:
    return t(torch.add, input, t(torch.mul, t(torch.sub, end, input), weight))


@rule("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
def dropout(t: Tracer, input: Traced, p: float = 0.5, training: bool = True, inplace: bool = False) -> Traced:
    if not training or hint_of(p) == 0:
        return input
    call = f"torch.nn.functional.{t.op}({{input}}, {{p}}, True)"
    return t.emit("dropout", {"input": input, "p": p}, input.node.shape, call)
