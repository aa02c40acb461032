"""Closed sums against sums."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnc.compiler.analysis import sums
from attnc.compiler.analysis.sums import total
from attnc.ir.expr import Expr, evaluate, op, parse


def by_hand(e: Expr, count: int, **env: int) -> int:
    return sum(int(evaluate(e, {**env, "t": t})) for t in range(count))


@pytest.mark.parametrize(
    "text",
    [
        "7",
        "t",
        "3 * t - N",
        "max(min(t * 32 + 32, N) - max(t * 32 - 32, 0), 0)",
        "where(t * 32 < (N + 7) // 8, min((N + 7) // 8, t * 32 + 64), max(t * 32 - 32, 0))",
        "abs(t - 11) % 6",
        "(5 * t + 3) // 7 + t % 4",
        "int(t == 9) + int(t != 3 and not t > 20) + int(t < 4 or t >= 30)",
        "(t // 64 + 1) * 64 - t",
    ],
)
@pytest.mark.parametrize("count", [0, 1, 2, 37, 200])
def test_sums(text: str, count: int) -> None:
    e = parse(text)
    assert total(e, "t", count, {"N": 101}) == by_hand(e, count, N=101)


def test_the_length_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "MOST_PIECES", 16)
    band = parse("min(t + 33, N) - max(t - 32, 0)")
    n = 10**15
    assert total(band, "t", n, {"N": n}) == 65 * n - 32 * 33


def test_what_has_no_closed_form() -> None:
    assert total(parse("t * t"), "t", 10, {}) is None
    assert total(parse("t % 100003 // 2"), "t", 10**9, {}) is None


LEAVES = st.sampled_from(["t", "N"]).map(parse) | st.integers(-9, 9).map(lambda n: parse(str(n)))


def grown(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    pairs = st.tuples(inner, inner)
    return (
        st.builds(lambda name, ab: op(name, *ab), st.sampled_from(["+", "-", "min", "max"]), pairs)
        | st.builds(op, st.sampled_from(["//", "%"]), inner, st.integers(1, 9))
        | st.builds(
            lambda c, ab, xy: op("where", op(c, *ab), *xy), st.sampled_from(["<", "<=", "==", ">", "!="]), pairs, pairs
        )
        | st.builds(lambda a: op("abs", a), inner)
    )


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.recursive(LEAVES, grown, max_leaves=8), st.integers(0, 60), st.integers(0, 70))
def test_any_expression(e: Expr, count: int, size: int) -> None:
    assert total(e, "t", count, {"N": size}) in (None, by_hand(e, count, N=size))
