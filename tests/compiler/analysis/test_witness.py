"""Counterexamples by trying points."""

from __future__ import annotations

import pytest

from attnc.compiler.analysis.residues import residue
from attnc.compiler.analysis.witness import exists, several
from attnc.ir.attn import Source
from attnc.ir.attributes import DimsAttr
from attnc.ir.expr import parse

DIMS = DimsAttr.read("b < B, h < H, i < N, j < N_k")


def test_what_holds_somewhere_is_found() -> None:
    for condition in ("i == j", "j > i + 300", "i < 3 and j == N_k - 1", "N < N_k", "abs(i - j) <= 1 and i % 7 == 3"):
        assert exists(parse(condition), DIMS), condition


def test_what_holds_nowhere_is_not() -> None:
    facts = [parse("N % 8 == 0"), parse("N_k == N")]
    for condition in ("i >= N", "i < j and j < i", "j >= N", "N % 4 == 1", "i // 8 >= N // 8"):
        assert not exists(parse(condition), DIMS, facts), condition
    assert not exists(parse("m.bool[i]"), DIMS)
    assert not exists(parse("i == j"), DIMS, [parse("N == 0")])


def test_a_value_that_differs_among_rare_pairs_is_found() -> None:
    window = parse("abs(i // 7 - j // 7) <= 1 and i // 7 % 2 == j // 7 % 2 and i % 7 % 2 == j % 7 % 2")
    assert several(parse("(i - j) % 14"), window, DIMS)
    assert not several(parse("(i - j) % 2"), window, DIMS)
    assert not several(parse("(i - j) % 14"), parse("i == j"), DIMS)
    nowhere = DimsAttr.read("b < B // 4096, i < N, j < N_k")
    assert not several(parse("i - j"), parse("True"), nowhere)  # there is no batch at any size that is tried


@pytest.mark.parametrize(
    ("mask", "period", "value"),
    [
        ("(i - j) % 8 == 0", 8, "0"),
        ("(i - j) % 8 == 0", 4, "0"),
        ("(j - i) % 8 == 3 and j <= i", 8, "5"),
        ("i % 8 == (j + 2) % 8", 8, "2"),
        ("(i - j) % 8 == h", 8, "h % 8"),
        ("(i + N_k - N - j) % 8 == 0", 8, "(N - N_k) % 8"),
        ("(i - j & 7) == 0", 8, "0"),
        ("i % 4 == 1 and j % 4 == 3", 4, "2"),
        ("(i - j) % 8 <= 1", 8, None),
        ("(i + j) % 8 == 0", 8, None),
        ("(i - j) % 8 == i", 8, None),
        ("j <= i", 8, None),
    ],
)
def test_residues(mask: str, period: int, value: str | None) -> None:
    found = residue(DIMS[:3], Source("j", parse("N_k"), (), (), parse(mask)), period)
    assert (None if found is None else str(found)) == value
