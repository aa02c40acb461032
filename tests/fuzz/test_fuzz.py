"""A fixed slice of the fuzzer: the same programs in every run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings

from .checks import Refused, Unusable, check
from .programs import Program, programs
from .test_found import FOUND


@pytest.mark.parametrize("backend, number", [("cpu", 1), ("cpu", 2), ("triton", 4), ("reference", 5)])
def test_slice(backend: str, number: int, tmp_path: Path) -> None:
    results: list[str] = []

    @seed(number)
    @settings(
        max_examples={"cpu": 12, "triton": 4, "reference": 6}[backend],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs())
    def attempt(program: Program) -> None:
        try:
            results.append("eager" if check(program, tmp_path, backend, False, f"p{len(results)}") else "fused")
        except (Unusable, Refused) as stopped:
            results.append(type(stopped).__name__)

    attempt()
    assert results.count("fused") >= len(results) / 2, results


def test_the_same_code_and_pairs_from_another_process(tmp_path: Path) -> None:
    assert not check(next(iter(FOUND.values())), tmp_path, "cpu", False, deep=True)
