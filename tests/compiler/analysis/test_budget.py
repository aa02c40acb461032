"""Questions to isl that run out of operations: an answer comes all the same, a right one, and always the same one."""

from __future__ import annotations

from typing import Any

import pytest

from attnc.compiler.analysis import index_sets, integer_sets
from attnc.compiler.analysis.index_sets import implies, rows_never_empty
from attnc.compiler.analysis.integer_sets import Space, context, isl, within_budget
from attnc.compiler.analysis.residues import residue
from attnc.ir.attn import Source
from attnc.ir.attributes import DimsAttr
from attnc.ir.expr import parse
from tests.compiler.analysis.test_hulls import window
from tests.compiler.analysis.test_index_sets import analyse, check

MASKS = ["j != i", "abs(i - j) <= 5 or j >= N_k - 8", f"({window(6, 1)}) or j < 4"]
BUDGETS = [*range(1, 8), *(int(1.6**n) for n in range(5, 24)), 60_000, 90_000]


def ranges(mask: str, rows: int) -> tuple[Any, Source, Any]:
    index_sets.tile_ranges.cache_clear()
    index_sets._never.cache_clear()
    return analyse("b < 2, i < N", "j < N_k", mask, rows)


@pytest.mark.parametrize("mask", MASKS)
def test_any_budget_gives_a_right_answer(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for budget in BUDGETS:
        monkeypatch.setattr(integer_sets, "BUDGET", budget)
        dims, source, answer = ranges(mask, 16)
        if answer not in found:
            found.add(answer)
            for n, n_k in ((1, 1), (7, 36), (36, 36), (40, 65)):
                check(answer, dims, 16, source, {"N": n, "N_k": n_k}, source.mask)
    assert len(found) > 1, "no budget was ever too small"


def test_other_questions_are_answered_at_any_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = dims = DimsAttr.read("i < N")
    for budget in BUDGETS[::2]:
        monkeypatch.setattr(integer_sets, "BUDGET", budget)
        index_sets._never.cache_clear()
        strided = Source("j", parse("N"), (), (), parse("i % 12 == j % 12 or (i + 3) % 24 == (j + 3) % 24"))
        assert residue(dims, strided, 4) in (None, parse("0"))
        assert rows_never_empty(dims, strided) in (True, False)
        assert not implies(parse("i // 8 == 3"), parse("i % 5 < 4"), dims)


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 8, 13, 21])
def test_what_islpy_gives_without_operations_is_no_answer(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_sets, "BUDGET", budget)
    assert within_budget(lambda: isl().Val.int_from_si(context(), 7).to_str(), lambda: "too hard") in ("7", "too hard")


def test_an_error_of_ours_is_no_matter_of_budget() -> None:
    with pytest.raises(ZeroDivisionError):
        within_budget(lambda: 1 // 0, lambda: 0)


def test_what_was_asked_before_costs_a_question_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or an answer near the limit, and with it the code that is made, would differ from process to process."""

    def ask() -> bool:
        space = Space(("i", "j"), [parse("abs(i - j) <= N"), parse("i % 7 == j % 5")])
        return bool((space.upper(parse("i % 7 == j % 5")) & space.upper(parse("abs(i - j) <= N"))).is_empty())

    def needed() -> int:
        low, high = 0, 1 << 16
        while high - low > 1:
            middle = (low + high) // 2
            monkeypatch.setattr(integer_sets, "BUDGET", middle)
            low, high = (low, middle) if within_budget(lambda: not ask(), lambda: False) else (middle, high)
        return high

    first = needed()
    monkeypatch.setattr(integer_sets, "BUDGET", 400_000)
    ranges(MASKS[0], 64)
    assert 1 < first == needed() < 1 << 16
