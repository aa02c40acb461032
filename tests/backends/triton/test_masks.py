"""Masks as bounds of columns: the same pairs, with fewer operations for each."""

import itertools

import pytest

from attnc.backends.triton.masks import by_bounds
from attnc.ir.expr import evaluate, parse


@pytest.mark.parametrize(
    "text, expected",
    [
        ("j <= i", "j <= i"),
        ("j <= i and j < N", "j < min(i + 1, N)"),
        ("abs(i - j) <= 2", "j >= i - 2 and j < i + 3"),
        ("abs(i - j) < 2 and j < N", "j >= i - 1 and j < min(i + 2, N)"),
        ("i - j > 1 and i - j <= 3", "j < i - 1 and j >= i - 3"),
        ("i // 2 - j // 2 <= 1 and j // 2 <= i // 2", "j // 2 >= i // 2 - 1 and j // 2 <= i // 2"),
        ("(i - j) % 2 == 0 and j < i + 2", "j < i + 2 and j % 2 == i % 2"),
        ("(i - j) % 3 == 1", "j % 3 == (i - 1) % 3"),
        ("(2 * j + i) % 4 == 3", "j * 2 % 4 == (-i + 3) % 4"),
        ("j % 4 == 3", "j % 4 == 3"),
        ("(i - j) % 3 == 5", "(i - j) % 3 == 5"),
        ("i * j % 3 == 1", "i * j % 3 == 1"),
        ("i - j < 2 or j < 1 and i + j > 3", "j >= i - 1 or j < 1 and j >= -i + 4"),
        ("i * j < 5", "i * j < 5"),
        ("abs(j) <= 2", "abs(j) <= 2"),
        ("abs(i - j) <= -1", "j >= i + 1 and j < i"),
    ],
)
def test_masks(text, expected):
    before = parse(text)
    after = by_bounds(before, "i", "j")
    assert str(after) == str(parse(expected))
    for i, j, n in itertools.product(range(-1, 6), range(-1, 6), (0, 3)):
        env = {"i": i, "j": j, "N": n}
        assert evaluate(after, env) == evaluate(before, env), env
