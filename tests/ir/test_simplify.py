"""Simplification keeps values, and finds the forms that reshapes need."""

from __future__ import annotations

import itertools

import pytest

from attnc.ir.expr import evaluate, free_vars, parse
from attnc.ir.simplify import simplify

RANGES = {"N": ("1", None), "g": ("0", "N // 4 - 1"), "w": ("0", "3"), "i": ("0", "N - 1"), "j": ("0", "N - 1")}
BOUNDS = {name: tuple(None if b is None else parse(b) for b in pair) for name, pair in RANGES.items()}

FORMS = {
    "(g * 4 + w) // 4": "g",
    "(g * 4 + w) % 4": "w",
    "(i * N + j) // N": "i",
    "(i + N) % N": "i",
    "i // 4 * 4 + i % 4": "i",
    "g * 4 + w < N": "True",
    "i - j <= 5": "i <= j + 5",
    "abs(j - i) < 4": "abs(i - j) <= 3",
    "i // 2 // 2": "i // 4",
    "not (i < j or i > 4)": "j <= i and i <= 4",
    "N // 4 * 4": "N",
    "max(i - 2, 0) // 1 + min(w, 7)": "w + max(i - 2, 0)",
}


@pytest.mark.parametrize("text", FORMS)
def test_form(text: str) -> None:
    assert str(simplify(parse(text), BOUNDS, [parse("N % 4 == 0")])) == FORMS[text]


@pytest.mark.parametrize(
    "text", [*FORMS, "(i - 3) // 4", "(i - 3) % N", "(2 * i + 1) % 6", "(i * 6 + w) // 4 % 3", "2 * i == 2 * j + 1"]
)
def test_values(text: str) -> None:
    before = parse(text)
    after = simplify(before, BOUNDS, [parse("N % 4 == 0")])
    for n in (4, 8):
        for g, w, i, j in itertools.product(range(n // 4), range(4), range(n), range(n)):
            env = {"N": n, "g": g, "w": w, "i": i, "j": j}
            assert evaluate(before, env) == evaluate(after, env), (str(after), env, free_vars(after))


def test_a_variable_that_ranges_up_to_a_quotient() -> None:
    """The keys of a concatenation before the last piece."""
    ranges = {"N": (parse("0"), None), "k": (parse("0"), parse("N + N // 3 - 1"))}
    assert str(simplify(parse("k < N + N // 3"), ranges)) == "True"
    assert str(simplify(parse("k < N + N // 3 - 1"), ranges)) != "True"
