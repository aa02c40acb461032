"""Expressions for whole arrays give what they give for single numbers."""

from __future__ import annotations

import numpy as np
import pytest

from attnc.compiler.analysis.numeric import array_value
from attnc.ir.expr import evaluate, parse


@pytest.mark.parametrize(
    "text",
    [
        "log2(i)", "log(i + 1)", "exp(-i)", "exp2(i)", "sqrt(i)", "tanh(i)", "sin(i)", "cos(i)", "sigmoid(i - 4)",
        "pow(i, 2)", "pow(2, i)", "pow(0.5, i)", "pow(1.5, i - 3)", "floor(i / 3)", "ceil(i / 3)", "min(i, 3)",
        "where(i < 4, i // 2, i % 3)", "float(i) / 3", "int(i / 3)",
    ],
)  # fmt: skip
def test_arrays_and_numbers_agree(text: str) -> None:
    e, i = parse(text), np.arange(9)
    np.testing.assert_allclose(array_value(e, {"i": i}), [evaluate(e, {"i": n}) for n in range(9)])


def test_a_negative_power_of_integers_is_an_integer() -> None:
    assert array_value(parse("pow(i, j)"), {"i": np.array([2, 1, -1]), "j": -1}).tolist() == [0, 1, -1]
