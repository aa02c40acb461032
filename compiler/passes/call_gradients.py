"""Gradients of calls that are calls themselves: sums, products and rearrangements.

``attn.call_gradient`` leaves a call to PyTorch's autograd, which runs the call again and needs all its inputs.  Around
attention most calls are projections, residuals and changes of shape, whose gradients need neither: that of
``torch.matmul(x0, x1)`` by ``x0`` reads ``x1`` only, that of a residual is what came in.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import NamedTuple

from ...ir.attn import CallOp
from ...ir.attributes import tensor_type
from ...ir.calls import parse_call
from ...ir.dtypes import FLOATS, name_of
from ...ir.expr import Const, Expr, Op, parse, walk


class CallGradient(NamedTuple):
    """The gradient of an input as text over ``x0``, that of the output, and ``x1``, the input number ``reads``."""

    text: str
    reads: int | None = None


def is_constant(op: CallOp) -> bool:
    """Does the result depend on nothing but the shape of its inputs, or pass no gradient on by its definition?"""
    match parse_call(op.call.data).body:
        case ast.Call(ast.Attribute(_, name)):
            return name == "detach" or name.endswith("_like")
    return False


def call_gradient(op: CallOp, n: int) -> CallGradient | None:
    """How to compute the gradient of input ``n`` directly; None if only autograd knows."""
    types = [tensor_type(v) for v in (*op.inputs, *op.outputs)]
    if len(op.outputs) != 1 or len({t.element for t in types}) > 1 or name_of(types[0].element) not in FLOATS:
        return None
    *inputs, out = [t.shape for t in types]
    names = [f"x{k}" for k in range(len(inputs))]
    match parse_call(op.call.data).body:
        case ast.BinOp(ast.Name(a), operator, ast.Name(b)) if [a, b] == names:
            found = _product_or_sum(operator, n)
        case ast.BinOp(ast.Name("x0"), operator, ast.Constant() | ast.UnaryOp() as c) if len(names) == 1:
            found = _by_number(operator, ast.unparse(c))
        case ast.Call(ast.Attribute(ast.Name("torch"), name), [ast.Name("x0"), *rest], []):
            if name == "matmul" and len(names) == 2 and ast.unparse(rest[0]) == "x1":
                return _matmul(inputs[0], inputs[1], out, n)
            return _rearrangement(name, rest, inputs[0]) if len(names) == 1 else None
        case ast.Call(ast.Attribute(_, "linear"), [*given], []) if [ast.unparse(x) for x in given] == names:
            return _linear(n) if len(inputs[0]) >= 2 else None
        case ast.Call(ast.Attribute(_, "einsum"), [ast.Constant(str(letters)), *given], []):
            return _einsum(letters, n) if len(names) == 2 and [ast.unparse(x) for x in given] == names else None
        case ast.Call(ast.Attribute(_, "pad"), [ast.Name("x0"), ast.Tuple(pads)], [ast.keyword("value")]):
            return _pad([ast.unparse(p) for p in pads], inputs[0])
        case _:
            return None
    return _summed(found, inputs[n], out)


def _product_or_sum(operator: ast.operator, n: int) -> CallGradient | None:
    match operator:
        case ast.Add():
            return CallGradient("x0")
        case ast.Sub():
            return CallGradient("-x0" if n else "x0")
        case ast.Mult():
            return CallGradient("x0 * x1", 1 - n)
        case ast.Div() if n == 0:
            return CallGradient("x0 / x1", 1)
    return None


def _by_number(operator: ast.operator, number: str) -> CallGradient | None:
    match operator:
        case ast.Add() | ast.Sub():
            return CallGradient("x0")
        case ast.Mult():
            return CallGradient(f"x0 * {number}")
        case ast.Div():
            return CallGradient(f"x0 / {number}")
    return None


def _summed(found: CallGradient | None, shape: Sequence[Expr], out: Sequence[Expr]) -> CallGradient | None:
    """``found`` for an input that was broadcast along new dimensions in front, such as a bias."""
    new = len(out) - len(shape)
    if found is None or list(out[new:]) != list(shape):
        return None
    if not new:
        return found
    return found._replace(text=f"({found.text}).sum({tuple(range(new))})")


def _rearrangement(name: str, rest: Sequence[ast.expr], shape: Sequence[Expr]) -> CallGradient | None:
    if name == "permute" and len(rest) == 1 and isinstance(rest[0], ast.Tuple):
        dims = ast.literal_eval(rest[0])
        return CallGradient(f"torch.permute(x0, {tuple(dims.index(k) for k in range(len(dims)))})")
    functions = any(isinstance(x, Op) and x.name.isalpha() for e in shape for x in walk(e))  # a call may name none
    if name in ("reshape", "unsqueeze", "squeeze") and not functions:
        return CallGradient(f"torch.reshape(x0, [{', '.join(str(e) for e in shape)}])")
    return None


def _linear(n: int) -> CallGradient:
    match n:
        case 0:
            return CallGradient("torch.matmul(x0, x1)", 1)
        case 1:
            return CallGradient("torch.matmul(x0.flatten(0, -2).mT, x1.flatten(0, -2))", 0)
    return CallGradient("x0.flatten(0, -2).sum(0)")


def _einsum(letters: str, n: int) -> CallGradient | None:
    """Each letter of an input is one of the output's or of the other input's, unless the input was summed alone.

    Weights have few elements and long sums, which round less in the layout that autograd has kept.
    """
    inputs, _, out = letters.replace(" ", "").partition("->")
    a, _, b = inputs.partition(",")
    wanted, other = (a, b) if n == 0 else (b, a)
    if "->" not in letters or "." in letters or any(len(set(x)) < len(x) for x in (a, b)):
        return None
    if not set(wanted) <= {*out, *other} or wanted[:1] != out[:1]:  # no batch: weights
        return None
    return CallGradient(f"torch.einsum({f'{out},{other}->{wanted}'!r}, x0, x1)", 1 - n)


def _pad(pads: Sequence[str], shape: Sequence[Expr]) -> CallGradient | None:
    """Of a pad by a constant: the part that is not padding, a view."""
    amounts = [parse(p) for p in pads]
    if not all(map(_never_negative, amounts)):
        return None
    padded = len(shape) - len(pads) // 2  # the last dimension comes first
    befores = reversed(amounts[::2])
    parts = [f"{before}:{before + size}" for before, size in zip(befores, shape[padded:], strict=True)]
    return CallGradient(f"x0[{', '.join([':'] * padded + parts)}]")


def _never_negative(x: Expr) -> bool:
    match x:
        case Const(value):
            return value >= 0
        case Op("%", (_, Const(value))):
            return value > 0
    return False


def _matmul(a: Sequence[Expr], b: Sequence[Expr], out: Sequence[Expr], n: int) -> CallGradient | None:
    if min(len(a), len(b)) < 2 or list(a[:-2]) != list(out[:-2]):
        return None
    batched = list(b[:-2]) == list(out[:-2])
    if n == 0 and (batched or len(b) == 2):
        return CallGradient("torch.matmul(x0, x1.mT)", 1)
    if n == 1 and batched:
        return CallGradient("torch.matmul(x1.mT, x0)", 0)
    if n == 1 and len(b) == 2:
        return CallGradient("torch.matmul(x1.flatten(0, -2).mT, x0.flatten(0, -2))", 0)
    return None
