"""The queries that see a tile of keys: the same index sets with rows and keys swapped, against the dense mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnc.compiler.analysis.index_sets import KeyRanges, key_ranges
from attnc.compiler.analysis.numeric import array_value
from attnc.ir.attn import Source
from attnc.ir.attributes import Dim, DimsAttr
from attnc.ir.expr import Expr, evaluate, parse
from tests.compiler.analysis.test_index_sets import HEADS, PAIRS, PATTERNS, PLAIN, ROWS, check, points, texts
from tests.compiler.analysis.test_random_masks import masks


def clamped(position: str, width: int, count: str) -> str:
    """First key of a window that keeps its width at the ends."""
    return f"max(0, min({position} - {width // 2}, {count} - {width}))"


def within(i: str, j: str, width: int, count: str) -> str:
    first = clamped(i, width, count)
    return f"{first} <= {j} and {j} < {first} + {width}"


SQUARE = "j < N"
CLASSES = "r < 8, i < (N - r + 7) // 8"
# domain, keys, mask: clamped windows in one and two dimensions, dilated ones, hierarchies
WANTED = [
    (ROWS, SQUARE, within("i", "j", 17, "N")),
    (ROWS, SQUARE, within("i", "j", 129, "N")),
    (CLASSES, "j < (N - r + 7) // 8", within("i", "j", 7, "(N - r + 7) // 8")),
    (ROWS, SQUARE, within("i // 9", "j // 9", 5, "N // 9") + " and " + within("i % 9", "j % 9", 5, "9")),
    (ROWS, SQUARE, "abs(i // 24 - j // 24) <= 3 and abs(i % 24 - j % 24) <= 3"),
    (ROWS, SQUARE, "abs(i // 9 - j // 9) <= 4 and (i // 9 - j // 9) % 2 == 0 and (i % 9 - j % 9) % 2 == 0"),
    (ROWS, SQUARE, "(i - j) % 8 == 0 and abs(i - j) <= 64 and j <= i"),
    (ROWS, "c < N // 8", "c < i // 8"),
    (ROWS, "c < (N + 7) // 8", "abs(i // 8 - c) <= 2"),
    (ROWS, "c < N // 8", "c * 8 + 7 < i - 16"),
    (ROWS, SQUARE, "i // 8 == j // 8 and j <= i"),
    (ROWS, SQUARE, "j // 16 < i // 16 and j % 16 == 15"),
    (ROWS, SQUARE, "j <= i and (i - j <= 16 or j < 4)"),
]


def transposed(domain: str, key: str, mask: Expr, rows: int) -> tuple[tuple[Dim, ...], Source, KeyRanges]:
    """A problem with rows and keys swapped, and the ranges of its tiles."""
    *batch, row = DimsAttr.read(domain)
    (k,) = DimsAttr.read(key)
    dims, source = (*batch, k), Source(row.name, row.extent, (), (), mask)
    return dims, source, key_ranges(dims, rows, source)


@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize(("domain", "key", "mask"), PATTERNS, ids=[p[2] for p in PATTERNS])
def test_ranges_agree_with_the_dense_mask(domain: str, key: str, mask: str, rows: int) -> None:
    dims, source, ranges = transposed(domain, key, parse(mask), rows)
    assert len(ranges.all) <= 8
    for n, n_k in PAIRS:
        check(ranges, dims, rows, source, {"N": n, "N_k": n_k}, source.mask)


def walked(ranges: KeyRanges, dims: tuple[Dim, ...], rows: int, source: Source, sizes: dict[str, int]) -> float:
    """Queries that tiles walk over, by those that some key of the tile is seen by."""
    steps = touched = 0
    for env, bound in points(dims, sizes):
        extent = evaluate(source.extent, env)
        names = {**env, dims[-1].name: np.arange(bound)[:, None], source.key: np.arange(extent)[None, :]}
        mask = np.broadcast_to(array_value(source.mask, names), (bound, extent))
        for t in range(-(-bound // rows)):
            here = {**env, "t": t}
            steps += sum(max(0, evaluate(r.hi, here) - evaluate(r.lo, here)) for r in ranges.all)
            touched += int(mask[t * rows : (t + 1) * rows].any(0).sum())
    return steps / max(1, touched)


@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize(("domain", "key", "mask"), WANTED, ids=[p[2] for p in WANTED])
def test_walks_hardly_more_than_it_must(domain: str, key: str, mask: str, rows: int) -> None:
    dims, source, ranges = transposed(domain, key, parse(mask), rows)
    for n in (0, 1, 7, 63, 64, 130, 217):
        check(ranges, dims, rows, source, {"N": n}, source.mask)
    assert walked(ranges, dims, rows, source, {"N": 400}) < 1.35


@given(mask=masks, rows=st.sampled_from([1, 8, 16]), n=st.integers(0, 40), n_k=st.integers(0, 40))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_random_masks(mask: Expr, rows: int, n: int, n_k: int) -> None:
    if str(mask) in ("True", "False"):
        return
    dims, source, ranges = transposed("h < 2, i < N", PLAIN, mask, rows)
    check(ranges, dims, rows, source, {"N": n, "N_k": n_k}, source.mask)
    check(ranges, dims, rows, source, {"N": n, "N_k": n}, source.mask)


windows = st.tuples(st.integers(1, 30), st.sampled_from(["N", "N_k", "h * 8 + 9"]), st.sampled_from(["i", "i // 3"]))


@given(window=windows, rows=st.sampled_from([1, 8, 16]), n=st.integers(0, 60), forward=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_random_clamped_windows(window: tuple[int, str, str], rows: int, n: int, forward: bool) -> None:
    width, count, position = window
    mask = parse(within(position, "j", width, count))
    if forward:
        (k,) = DimsAttr.read(PLAIN)
        dims, source = DimsAttr.read(HEADS), Source(k.name, k.extent, (), (), mask)
        ranges = key_ranges(dims, rows, source)
    else:
        dims, source, ranges = transposed(HEADS, PLAIN, mask, rows)
    for n_k in (n, 0, 40):
        check(ranges, dims, rows, source, {"N": n, "N_k": n_k}, source.mask)


def test_common_patterns_have_short_ranges() -> None:
    def ranges(mask: str, key: str = SQUARE) -> tuple[list[str], list[str]]:
        return texts(transposed("b < B, h < H, i < N", key, parse(mask), 64)[2])

    assert ranges("j <= i") == (["min(t * 64 + 64, N) - 1, N"], ["t * 64, min(t * 64 + 64, N) - 1"])
    assert ranges("abs(i - j) <= 16") == ([], ["max(t * 64 - 16, 0), min(N, t * 64 + 80)"])
    full, partial = ranges("c < i // 8", "c < N // 8")
    assert (full, partial) == (["min(t * 64 + 64, N // 8) * 8, N"], ["t * 512 + 8, min(t * 64 + 64, N // 8) * 8"])
