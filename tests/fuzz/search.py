"""How the fuzzers look for a failure: random values, and a smaller one that fails as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

T = TypeVar("T")


def smallest_failure(number: int, count: int, what: st.SearchStrategy[T], attempt: Callable[[T], None]) -> None:
    """Try ``count`` random values, those of the seed ``number``; what the smallest that fails raises goes through."""

    def one(value: T) -> None:
        attempt(value)

    wanted = settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
    )
    seed(number)(wanted(given(what)(one)))()
