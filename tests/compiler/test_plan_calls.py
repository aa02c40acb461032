"""Calls that plans make in place of PyTorch's give the same, large and small."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import pytest
import torch

from attnc.compiler import pages, plan_calls
from attnc.compiler.plan_calls import faster


def strided(*shape: int) -> torch.Tensor:
    return torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 2, 5, 6), (3, 4, 6)])
@pytest.mark.parametrize(("width", "pad"), [(1, 0), (2, 0), (3, 1), (3, 0), (5, 2), (2, 1)])
def test_windows(shape: tuple[int, ...], width: int, pad: int) -> None:
    rank = len(shape) - 2
    kernel, padding, ones = (width, *[3] * (rank - 1)), (pad, *[1] * (rank - 1)), (1,) * rank
    functions = torch.nn.functional
    with_nan = torch.randn(shape)
    with_nan[0, 0, 2] = torch.nan
    some = torch.randn(shape[0], 2 * shape[1], *shape[2:])[:, ::2]
    for x in (with_nan, some, strided(*shape), torch.full(shape, -torch.inf)):
        found = plan_calls.max_pool(x, kernel, ones, padding, ones, ceil_mode=False)
        expected = getattr(functions, f"max_pool{rank}d")(x, kernel, 1, padding)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        for counted in (True, False):
            found = plan_calls.avg_pool(x, kernel, ones, padding, False, counted)
            expected = getattr(functions, f"avg_pool{rank}d")(x, kernel, 1, padding, False, counted)
            torch.testing.assert_close(found, expected, equal_nan=True)


def test_steps_and_gaps_are_left_to_pytorch() -> None:
    x = torch.randn(1, 2, 9, 8)
    for stride, dilation in (((2, 1), (1, 1)), ((1, 1), (1, 2))):
        found = plan_calls.max_pool(x, (3, 2), stride, (1, 0), dilation, ceil_mode=True)
        assert torch.equal(found, torch.nn.functional.max_pool2d(x, (3, 2), stride, (1, 0), dilation, True))
    found = plan_calls.avg_pool(x, (3, 2), (2, 2), (1, 0), True, False, 5)
    assert torch.equal(found, torch.nn.functional.avg_pool2d(x, (3, 2), (2, 2), (1, 0), True, False, 5))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_running_maximum(dim: int) -> None:
    x = torch.randn(70, 3, 80)
    x[4, 1, 7] = torch.nan
    for y in (x, x.transpose(0, 2), x.expand(2, 70, 3, 80)):
        torch.testing.assert_close(
            plan_calls.running_maximum(y, dim), y.cummax(dim).values, rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("bias", [None, torch.randn(5)])
@pytest.mark.parametrize(
    "x",
    [
        torch.randn(2, 3, 4, 7),
        torch.randn(2, 6, 4, 7)[:, 1:4],
        strided(1, 3, 2, 2),
        torch.randn(3, 4, 7),
        torch.randn(0, 3, 2, 2),
    ],
)
def test_pointwise(x: torch.Tensor, bias: torch.Tensor | None) -> None:
    w = torch.randn(5, 3, 1, 1)
    torch.testing.assert_close(plan_calls.pointwise(x, w, bias), torch.nn.functional.conv2d(x, w, bias))


@pytest.mark.parametrize("width", [6, pages.LEAST // 16])
def test_indexed(width: int) -> None:
    x, i, j = torch.randn(4, 3, width), torch.tensor([[1], [-1]]), torch.tensor([0, 2, 1, 1])
    assert torch.equal(plan_calls.indexed(x, 0, i), x[i])
    assert torch.equal(plan_calls.indexed(x, 1, j), x[:, j])
    assert torch.equal(plan_calls.indexed(x, 0, i, j[:3]), x[i, j[:3]])
    mask = torch.tensor([True, False, True])
    assert torch.equal(plan_calls.indexed(x, 1, mask), x[:, mask])


KINDS = {
    "x": (("N", "8"), "float32"),
    "y": (("8",), "float32"),
    "i": (("N", "8"), "uint8"),
    "w": (("5", "3", "1", "1"), "float32"),
    "m": (("N",), "bool"),
}


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("x * y", "elementwise(torch.mul, x, x, y)"),
        ("y - x", "elementwise(torch.sub, x, y, x)"),
        ("2.0 + x", "elementwise(torch.add, x, x, 2.0)"),
        ("2.0 / x", None),
        ("x * N", "elementwise(torch.mul, x, x, N)"),
        ("i * y", None),  # the result is like neither
        ("torch.exp(x)", "elementwise(torch.exp, x, x)"),
        ("torch.relu(x)", None),
        ("i.to(torch.float32)", "cast(i, torch.float32)"),
        ("torch.cat((x, x), 1)", "joined((x, x), 1)"),
        ("x[i]", "indexed(x, 0, i)"),
        ("x[:, i, y]", "indexed(x, 1, i, y)"),
        ("x[m]", None),
        ("x[:, 0]", None),
        ("x[i, :, i]", None),
        ("torch.nn.functional.conv2d(x, w, None, (1, 1), (0, 0), (1, 1), 1)", "pointwise(x, w, None)"),
        ("torch.nn.functional.conv2d(x, w, None, (1, 1), (0, 0), (1, 1), 5)", None),
        ("torch.matmul(x, y)", None),
    ],
)
def test_texts(text: str, same: str | None) -> None:
    kind = (("N", "8"), "float32") if text != "i * y" else (("N", "8"), "float64")
    assert faster(ast.parse(text, mode="eval"), [kind], KINDS) == same


def test_maxima_whose_places_nobody_reads() -> None:
    tree, kind = ast.parse("x.cummax(3)", mode="eval"), KINDS["x"]
    assert faster(tree, [kind, None], KINDS) == "(running_maximum(x, 3), None)"
    assert faster(tree, [kind, kind], KINDS) is None


SMALL, LARGE = (3, 5), (5, pages.LEAST // 16)


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("x / y", lambda x, y: x / y),
        ("-x + y", lambda x, y: y - x),
        ("x.to(torch.float64)", lambda x, y: x.double()),
        ("joined((x, y, x), 1)", lambda x, y: torch.cat((x, y, x), 1)),
        ("reshaped(x.mT, (x.numel(),))", lambda x, y: x.mT.reshape(-1)),
        ("reshaped(x.mT[None], (x.shape[1], x.shape[0]))", lambda x, y: x.mT),
        ("filled(x.shape, 7, dtype=torch.int64, device=x.device)", lambda x, y: torch.full(x.shape, 7)),
    ],
)
def test_results(shape: tuple[int, ...], text: str, call: Callable[..., Any]) -> None:
    x, y = torch.rand(2, *shape) + 1
    kind = (("N", "M"), "float32")
    names: dict[str, Any] = {"torch": torch, "x": x, "y": y, **plan_calls.CALLS}
    found = eval(faster(ast.parse(text, mode="eval"), [kind], {"x": kind, "y": kind}) or text, names)
    assert torch.equal(found, call(x, y))
    assert found.is_contiguous() == call(x, y).is_contiguous()
