"""Scores, masks and captured tensors: every operator, in the lanes and outside."""

from __future__ import annotations

import pytest
import torch

from .kernels import Forward, check_forward

SCORES = [
    "20.0 * tanh(dot / 20.0)",
    "dot * 0.25 - 0.5 * abs(i - j) * (h + 1)",
    "where(j > i, dot * 2.0, where(i == j, -1.0, exp(-abs(dot)) + float(i) * 0.01))",
    "sin(dot) + cos(dot) + sqrt(abs(dot)) + log(abs(dot) + 1.0) + sigmoid(dot)",
    "pow(abs(dot), 0.5) + pow(dot, 2) * 0.01 + int(floor(dot)) * 0.1 + max(dot, 0.1) + min(dot, 2.0)",
]
MASKS = [
    "abs(i - j) <= 3",
    "(i // 7 - j // 7) % 3 == 0 and (i - j) % 5 != 1 or (j - i) // 4 > 2",
    "(i // H - j // H) % B == 0 or (j - 3 * i) % M > 3",
    "not (i > j and j > 3) or (i & 3) == (j >> 2) and (i ^ j) != 5",
    "(i * N + j) % 7 < 4",
]


def ids(n: int) -> torch.Tensor:
    return torch.randint(0, 3, (2, n))


# tensors (name, rank, element), score, mask, values for (N, M)
CAPTURED = {
    "bias": (("x", 3, "f32"), "dot + x[h, i, j]", "j <= i", lambda n, m: torch.randn(3, n, m)),
    "transposed bias": (("x", 3, "f32"), "dot + x[h, i, j]", "j <= i", lambda n, m: torch.randn(3, m, n).mT),
    "narrow bias": (("x", 2, "bf16"), "dot + x[i, j]", "j <= i", lambda n, m: torch.randn(n, m).bfloat16()),
    "relative": (("x", 2, "f32"), "dot + x[h, i - j + M - 1]", "j <= i", lambda n, m: torch.randn(3, n + m)),
    "scalar": (("x", 0, "f64"), "dot * x[()]", "j <= i", lambda n, m: torch.tensor(0.7).double()),
    "mask": (("x", 3, "i1"), "dot", "x.bool[b, i, j]", lambda n, m: torch.rand(2, n, m) > 0.5),
    "lengths": (("x", 1, "i64"), "dot", "j < x.int[b]", lambda n, m: torch.tensor([3, 60])),
}


@pytest.mark.parametrize("dt", ["f32", "f64"])
@pytest.mark.parametrize("score", SCORES)
def test_scores(score: str, dt: str) -> None:
    check_forward(Forward(score=score, dt=dt), [(33, 40)])


@pytest.mark.parametrize("mask", MASKS)
def test_masks(mask: str) -> None:
    check_forward(Forward(mask=mask))


@pytest.mark.parametrize("name", CAPTURED)
def test_captured_tensors(name: str) -> None:
    tensor, score, mask, values = CAPTURED[name]
    check_forward(Forward(score=score, mask=mask, captured=(tensor,)), captured=lambda n, m: [values(n, m)])


@pytest.mark.parametrize("element", ["i64", "i32"])
def test_document_ids(element: str) -> None:
    dtype = torch.int64 if element == "i64" else torch.int32
    case = Forward(mask="x.int[b, i] == y.int[b, j]", captured=(("x", 2, element), ("y", 2, element)))
    check_forward(case, captured=lambda n, m: [ids(n).to(dtype), ids(m).to(dtype)])


def test_gathered_rows() -> None:
    case = Forward(key="b, h, x.int[j], d", value="b, h, x.int[j], e", captured=(("x", 1, "i64"),))
    check_forward(case, captured=lambda n, m: [torch.randperm(m)])
