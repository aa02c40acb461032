"""The time expected of a whole GPU."""

from __future__ import annotations

from dataclasses import replace

from attnc.compiler.analysis.cost import EXPONENTIAL, device
from attnc.compiler.analysis.expected import Launch, expected

H100 = device("sm_90")
DENSE = Launch(1320, 1, 13200, 10**12, 0, 1, "bf16")


def test_arithmetic_alone() -> None:
    times = expected(replace(DENSE, steps=0), H100)
    assert abs(times.seconds - 1e12 / 990e12) < 1e-9
    assert times.rounds == 10


def test_the_multiprocessor_with_most_tasks_decides() -> None:
    assert expected(replace(DENSE, steps=0, tasks=133), H100).rounds == 2
    assert (
        expected(replace(DENSE, steps=0, tasks=133), H100).seconds
        > expected(replace(DENSE, steps=0, tasks=132), H100).seconds
    )


def test_tasks_that_share_a_multiprocessor_hide_waits() -> None:
    alone, shared = expected(DENSE, H100), expected(replace(DENSE, resident=2), H100)
    assert shared.arithmetic == alone.arithmetic <= shared.seconds < alone.seconds


def test_memory_and_exponentials() -> None:
    assert expected(replace(DENSE, bytes=3_350_000_000_000), H100).seconds == 1.0
    more = expected(replace(DENSE, exponentials=10**12), H100)
    assert abs(more.arithmetic - expected(DENSE, H100).arithmetic - EXPONENTIAL * 2e12 / 67e12) < 1e-6


def test_no_tasks() -> None:
    assert expected(replace(DENSE, tasks=0), H100).seconds == 0.0
