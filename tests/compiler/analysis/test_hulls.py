"""Windows over two- and three-dimensional positions: found without integer sets, wide enough, and not too wide."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from attnc.compiler.analysis import index_sets, integer_sets
from attnc.compiler.analysis.index_sets import counted_ranges, key_ranges
from attnc.compiler.analysis.numeric import array_value
from attnc.ir.attn import Source
from attnc.ir.attributes import DimsAttr
from attnc.ir.expr import evaluate, parse
from tests.compiler.analysis.test_index_sets import analyse, check


def window(width: int, radius: int) -> str:
    return f"abs(i // {width} - j // {width}) <= {radius} and abs(i % {width} - j % {width}) <= {radius}"


def clamped(width: int, taps: int) -> str:
    """Windows moved inwards at the borders of a square, so that each has all its taps."""
    parts = []
    for a, b in ((f"i // {width}", f"j // {width}"), (f"i % {width}", f"j % {width}")):
        start = f"max(min({a} - {taps // 2}, {width - taps}), 0)"
        parts.append(f"{b} >= {start} and {b} < {start} + {taps}")
    return " and ".join(parts)


CUBE = "abs(i // 36 - j // 36) <= 1 and abs(i // 6 % 6 - j // 6 % 6) <= 1 and abs(i % 6 - j % 6) <= 1"
# mask, keys of one tile beyond its own rows that the answer may have
WINDOWS = [
    (window(6, 1), 2 * 7),
    (window(14, 3), 2 * (3 * 14 + 3)),
    (window(14, 6), 2 * (6 * 14 + 6)),
    (window(56, 3), 2 * (3 * 56 + 3)),
    (window(64, 6), 2 * (6 * 64 + 6)),
    (window(14, 6) + " and (i // 14 - j // 14) % 2 == 0 and (i % 14 - j % 14) % 2 == 0", 2 * (6 * 14 + 6)),
    (window(14, 3) + " and j <= i", 3 * 14 + 3),
    (clamped(14, 7), 8 * 14),
    (clamped(56, 13), 14 * 56),
    (CUBE, 2 * (36 + 7)),
    ("i - i % 12 == j - j % 12", 22),
    (window(14, 3).replace("i ", "(i + 5) "), 2 * (3 * 14 + 8)),
]


@pytest.mark.parametrize(("mask", "margin"), WINDOWS, ids=[w[0] for w in WINDOWS])
def test_ranges_of_windows(mask: str, margin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_sets, "within_budget", None)
    for rows, sizes in ((1, (1, 50, 196)), (16, (0, 7, 196, 300)), (64, (36, 65, 784))):
        dims, source, ranges = analyse("i < N", "j < N_k", mask, rows)
        for n in sizes:
            check(ranges, dims, rows, source, {"N": n, "N_k": n}, source.mask)
            for t in range(-(-n // rows)):
                ends = [[int(evaluate(e, {"N": n, "N_k": n, "t": t})) for e in (r.lo, r.hi)] for r in ranges.all]
                assert sum(max(0, hi - lo) for lo, hi in ends) <= rows + margin
        check(ranges, dims, rows, source, {"N": 130, "N_k": 65}, source.mask)


@pytest.mark.parametrize(
    "mask",
    ["j <= i", "j <= i + N_k - N", "abs(i - j) <= 32", "abs(i - j) <= 256 and j <= i and j >= 5", WINDOWS[10][0]],
)
def test_counts_take_no_proofs(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (1, 16, 64):
        dims, source, ranges = analyse("i < N", "j < N_k", mask, rows)
        with monkeypatch.context() as patch:
            patch.setattr(index_sets, "tile_ranges", None)
            counted = counted_ranges(dims, rows, source)
        for n, m in ((0, 3), (50, 50), (196, 130), (300, 600)):
            for t in range(-(-n // rows)):
                env = {"N": n, "N_k": m, "t": t}
                for found, right in ((counted.full, ranges.full), (counted.partial, ranges.partial)):
                    lengths = [[max(0, int(evaluate(r.hi - r.lo, env))) for r in part] for part in (found, right)]
                    assert sorted(filter(None, lengths[0])) == sorted(filter(None, lengths[1]))


# alternatives and gaps, which integer sets see through while that is cheap
HARD = [
    f"({window(6, 1)}) or j < 4",
    f"{window(14, 3)} and abs(i - j) > 5",
    f"{window(14, 3)} and (i // 10 == j // 10 or j % 7 == 0)",
    f"{window(8, 1)} or abs(i // 64 - j // 64) <= 3 and i % 8 == j % 8",
]


@pytest.mark.parametrize("mask", HARD)
def test_a_budget_that_is_used_up_leaves_a_sound_answer(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_sets, "BUDGET", 1)
    for rows in (1, 32):
        dims = DimsAttr.read(f"b < {rows + 1}, i < N")  # a domain of its own: answers are remembered
        source = Source("j", parse("N_k"), (), (), parse(mask))
        ranges = key_ranges(dims, rows, source)
        for n, n_k in ((1, 1), (65, 65), (130, 200)):
            check(ranges, dims[1:], rows, source, {"N": n, "N_k": n_k}, source.mask)


def test_hard_masks_are_asked_about_once_and_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []

    def counted(question: Callable[[], object], otherwise: Callable[[], object]) -> object:
        def asked() -> object:
            limits.append(integer_sets.context().get_max_operations())
            return question()

        return integer_sets.within_budget(asked, otherwise)

    monkeypatch.setattr(index_sets, "within_budget", counted)
    for mask in HARD:
        analyse("b < 3, i < N", "j < N_k", mask, 64)
    assert limits == [integer_sets.BUDGET] * len(HARD)


def test_windows_compute_little_more_than_they_need() -> None:
    dims, source, ranges = analyse("i < N", "j < N", window(56, 3), 64)
    n = 56 * 56
    ends = [[evaluate(e, {"N": n, "t": t}) for e in (r.lo, r.hi)] for t in range(49) for r in ranges.all]
    computed = sum(max(0, hi - lo) for lo, hi in ends)
    i = np.arange(n)
    mask = array_value(source.mask, {"i": i[:, None], "j": i[None, :]})
    touched = mask.reshape(49, 64, n).any(1).sum()
    assert touched <= computed <= 1.3 * touched
