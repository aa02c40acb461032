"""Symbolic derivatives against PyTorch's, and their text."""

from __future__ import annotations

import pytest
import torch

from attnc.ir.derivative import derivative
from attnc.ir.expr import OPS, Const, Load, Var, loads, op, parse, parse_lambda
from attnc.ir.tensors import tensor_value

DOT = Var("dot", "float")


def d(text: str, of: Var | Load = DOT) -> str:
    return str(derivative(parse_lambda(f"lambda dot: {text}").body, of))


@pytest.mark.parametrize(
    ("text", "slope"),
    [
        ("dot * 0.125 + bias[h, i, j]", "0.125"),
        ("dot / 8", "0.125"),
        ("50.0 * tanh(dot / 50.0)", "1.0 - tanh(dot / 50.0) * tanh(dot / 50.0)"),
        ("dot * temperature[()]", "temperature[()]"),
        ("where(i < j, dot * 2.0, -1e9)", "where(i < j, 2.0, 0.0)"),
        ("sqrt(max(dot, 0))", "where(dot > 0, 0.5 / sqrt(max(dot, 0)), 0.0)"),
        ("pow(dot, 3)", "pow(dot, 2) * 3.0"),
        ("floor(dot) + bias[i]", "0.0"),
    ],
)
def test_derivatives_are_short(text: str, slope: str) -> None:
    assert d(text) == slope


def test_reads_at_different_indices_are_different_elements() -> None:
    e = parse_lambda("lambda dot: dot * t[h, i - j] + t[h, j - i] * 3.0 + t[h, i - j]").body
    first, second = loads(e)
    assert str(derivative(e, first)) == "dot + 1.0"
    assert derivative(e, second) == Const(3.0)


def test_an_integer_slope_is_a_float() -> None:
    assert d("dot - slope[h] * abs(i - j)", parse("slope[h]")) == "float(-abs(i - j))"  # type: ignore[arg-type]


SMOOTH = [
    "dot * dot - 0.3 * dot / (1.5 + dot)", "exp(-dot) + exp2(dot * 0.5)", "log(dot) * log2(dot + 1.0)",
    "1.0 / sqrt(dot)",
    "tanh(dot) * sigmoid(dot * 2.0)", "sin(dot) - cos(dot * 3.0)", "abs(dot - 1.0) + abs(1.0 - dot * 4.0)",
    "pow(dot, 2.5)", "pow(2.0, dot)", "pow(dot, dot)", "dot % 0.75", "3.0 % dot",
    "max(dot, 1.0 - dot) * min(dot, x[i])",
    "where(dot > 0.9, dot * dot, x[i] / dot)", "x[i] * dot + pow(x[i], 3) * x[i]", "log(1.0 + exp(dot))",
    "min(max(dot, 0.4), 1.1) * dot", "float(floor(dot * 3.0)) * dot",
]  # fmt: skip


@pytest.mark.parametrize("text", SMOOTH)
def test_as_pytorch(text: str) -> None:
    e = parse_lambda(f"lambda dot: {text}").body
    dot = torch.tensor([0.17, 0.41, 0.83, 1.37, 2.9], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.7, 1.9, 0.2, 0.6, 1.1], dtype=torch.float64, requires_grad=True)
    env = {"dot": dot, "i": torch.arange(5)}
    value = tensor_value(e, env, {"x": x}, torch.float64)
    expected = torch.autograd.grad(value.sum(), [dot, x], allow_unused=True, materialize_grads=True)
    for of, grad in zip((DOT, parse("x[i]")), expected, strict=True):
        found = tensor_value(derivative(e, of), env, {"x": x}, torch.float64)  # type: ignore[arg-type]
        torch.testing.assert_close(found.expand(5), grad, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("text", "at", "slope"),
    [
        ("abs(dot)", 0.0, 0.0),
        ("max(dot, 0)", 0.0, 0.0),  # relu
        ("max(dot, -2.0)", -2.0, 1.0),  # clamp
        ("min(max(dot, -2.0), 3.0)", 3.0, 1.0),
        ("max(dot, 2.0 * dot)", 0.0, 1.5),
        ("sqrt(max(dot, 0))", -1.0, 0.0),  # not NaN
        ("sqrt(abs(dot))", 0.0, 0.0),
        ("where(dot > 0.0, log(dot), 0.0)", -1.0, 0.0),
        ("tanh(dot * 1e30)", 1e30, 0.0),
        ("sigmoid(dot)", -1e4, 0.0),
    ],
)
def test_kinks_and_extremes(text: str, at: float, slope: float) -> None:
    e = derivative(parse_lambda(f"lambda dot: {text}").body, DOT)
    assert float(tensor_value(e, {"dot": torch.tensor(at, dtype=torch.float64)}, {}, torch.float64)) == slope


def test_every_operator_has_a_rule() -> None:
    binary = {"pow", "min", "max", "and", "or"} | {name for name in OPS if not name.isalnum()}
    for name in OPS:
        count = 2 if name in binary else 3 if name == "where" else 1
        derivative(op(name, *[DOT, Var("b", "float"), Var("c", "float")][:count]), DOT)
