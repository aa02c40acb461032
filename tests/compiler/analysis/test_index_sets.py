"""Key ranges against the dense mask."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from attnc.compiler.analysis import index_sets
from attnc.compiler.analysis.index_sets import (
    KeyRanges,
    implies,
    is_empty,
    key_ranges,
    rows_never_empty,
)
from attnc.compiler.analysis.numeric import array_value, countable
from attnc.ir.attn import Source
from attnc.ir.attributes import DimsAttr
from attnc.ir.expr import Expr, evaluate, parse

PLAIN, ROWS = "j < N_k", "b < 2, i < N"
HEADS = "h < 5, i < N"
LINES = "y < (N + 23) // 24, i < min(24, N - y * 24)"
RESIDUES = "r < 4, i < (N - r + 3) // 4"

# domain, keys, mask
PATTERNS = [
    (ROWS, PLAIN, "True"),
    (ROWS, PLAIN, "False"),
    (ROWS, PLAIN, "j <= i"),
    (ROWS, PLAIN, "j <= i + N_k - N"),
    (ROWS, PLAIN, "j >= i"),
    (ROWS, PLAIN, "j < N_k - i"),
    (ROWS, PLAIN, "abs(i - j) <= 9"),
    (ROWS, PLAIN, "abs(i - j) <= 40"),
    (ROWS, PLAIN, "not abs(j - i) > 40"),
    (ROWS, PLAIN, "abs(i - j) * 2 <= 41.0"),
    (ROWS, PLAIN, "abs(i + N_k - N - j) < 30"),
    (ROWS, PLAIN, "j <= i and i - j < 20"),
    (ROWS, PLAIN, "abs(i - j) <= 20 or j < 4"),
    (ROWS, PLAIN, "abs(i - j) <= 20 or j < 4 or i < 4"),
    (ROWS, PLAIN, "j <= i and (i - j < 20 or j < 4)"),
    (ROWS, PLAIN, "j < 37 or j <= i"),
    (ROWS, PLAIN, "abs(i - j) <= 5 or j >= N_k - 8"),
    (ROWS, PLAIN, "i // 16 == j // 16"),
    (ROWS, PLAIN, "i // 24 == j // 24"),
    (ROWS, PLAIN, "i // 24 >= j // 24"),
    (ROWS, PLAIN, "abs(i // 7 - j // 7) <= 1"),
    (ROWS, PLAIN, "(i + 8) // 16 == (j + 8) // 16"),
    (ROWS, PLAIN, "(i - j) % 8 == 0"),
    (ROWS, PLAIN, "(i - j & 7) == 0 and j <= i"),
    (ROWS, PLAIN, "abs(i - j) <= 24 or j % 16 == 0"),
    (ROWS, PLAIN, "i % 8 == j % 8 and abs(i - j) <= 40"),
    (ROWS, PLAIN, "(i >> 4) == (j >> 4) or (i & -16) == j"),
    (ROWS, PLAIN, "j < 5 and i < 3 or j > i + 20"),
    (ROWS, PLAIN, "j != i"),
    (ROWS, PLAIN, "j * i <= 100"),
    (ROWS, PLAIN, "j == i // 2 or j == i * 3"),
    (ROWS, PLAIN, "max(i, j) < 30 or min(i, j) > 50"),
    (ROWS, PLAIN, "(i ^ j) < 8"),
    (ROWS, PLAIN, "abs(i // 8 - j // 8) <= 1 and abs(i % 8 - j % 8) <= 1"),
    (ROWS, PLAIN, "abs(i // 8 - j // 8) <= 2 and abs(i % 8 - j % 8) <= 1 and j <= i"),
    (LINES, PLAIN, "abs(y - j // 24) <= 1 and abs(i - j % 24) <= 2"),
    (LINES, PLAIN, "y - j // 24 < 2 and j // 24 <= y and (i - j % 24) * 2 <= y and i >= j % 24"),
    (ROWS, PLAIN, "abs(i - j) <= (N + 3) // 4"),
    (ROWS, PLAIN, "j * N < i * N_k"),
    (ROWS, PLAIN, "where(i < 20, j < 10, j <= i)"),
    (ROWS, PLAIN, "where(N > 64, j <= i, j < 3)"),
    (ROWS, PLAIN, "(j <= i) == (j < 20)"),
    (HEADS, PLAIN, "abs(i - j) <= h * 8"),
    (HEADS, PLAIN, "abs(i - j) <= pow(2, h)"),
    (HEADS, PLAIN, "abs(i - j) <= h * h"),
    (HEADS, PLAIN, "where(h < 2, j <= i, abs(i - j) <= 9)"),
    (HEADS, PLAIN, "abs(i - j) <= where(h % 2 == 0, 8, 40)"),
    (HEADS, PLAIN, "h == 0 or j <= i and i - j < 8 and h > 2"),
    (RESIDUES, "j < (N_k - r + 3) // 4", "abs(i - j) <= 8"),
    (RESIDUES, "j < (N_k - r + 3) // 4", "j <= i"),
    (RESIDUES, "j < (N_k - (r + N_k - N) % 4 + 3) // 4", "j * 4 + (r + N_k - N) % 4 <= i * 4 + r + N_k - N"),
    ("g < (N + 12) // 13, i < min(13, N - g * 13)", "j < min(13, N - g * 13)", "j <= i"),
]
SIZES = (0, 1, 2, 7, 63, 64, 65, 130)
# every length with itself, and some that differ
PAIRS = [(n, n) for n in SIZES] + [(1, 130), (65, 7), (7, 65), (64, 130), (130, 63), (2, 0), (0, 5)]


def points(domain, sizes):
    """Batch index values of a domain, with the extent of its row dimension."""
    *batch, row = domain
    stack = [dict(sizes)]
    for d in batch:
        stack = [{**env, d.name: n} for env in stack for n in range(evaluate(d.extent, env))]
    return [(env, max(0, evaluate(row.extent, env))) for env in stack]


def check(ranges: KeyRanges, domain, rows: int, source: Source, sizes: dict[str, int], live: Expr) -> None:
    row = domain[-1].name
    for env, bound in points(domain, sizes):
        extent = max(0, evaluate(source.extent, env))
        i, j = np.arange(bound)[:, None], np.arange(extent)[None, :]
        mask = np.broadcast_to(array_value(live, {**env, row: i, source.key: j}), (bound, extent))
        for t in range(-(-bound // rows)):
            seen = np.zeros(extent, dtype=int)
            sure = np.zeros(extent, dtype=bool)
            for r in ranges.all:
                lo, hi = (int(evaluate(e, {**env, "t": t})) for e in (r.lo, r.hi))
                assert hi <= lo or (lo >= 0 and hi <= extent), f"{r} is [{lo}, {hi}) of {extent} at {env}, t = {t}"
                seen[max(lo, 0) : max(hi, 0)] += 1
                if r in ranges.full:
                    sure[max(lo, 0) : max(hi, 0)] = True
            tile = mask[t * rows : (t + 1) * rows]
            where = f"{env}, t = {t}, {ranges}"
            assert seen.max(initial=0) <= 1, f"ranges overlap at {where}"
            assert (seen[tile.any(0)] == 1).all(), f"a live key is missing at {where}"
            assert tile.all(0)[sure].all(), f"a full key is dead at {where}"


def analyse(domain: str, key: str, mask: str, rows: int):
    dims, (k,) = DimsAttr.read(domain), DimsAttr.read(key)
    source = Source(k.name, k.extent, (), (), parse(mask))
    return dims, source, key_ranges(dims, rows, source)


@pytest.mark.parametrize("rows", [1, 16, 64])
@pytest.mark.parametrize(("domain", "key", "mask"), PATTERNS, ids=[f"{p[2]}" for p in PATTERNS])
def test_ranges_agree_with_the_dense_mask(domain, key, mask, rows):
    dims, source, ranges = analyse(domain, key, mask, rows)
    assert len(ranges.all) <= 8
    for n, n_k in PAIRS:
        check(ranges, dims, rows, source, {"N": n, "N_k": n_k}, source.mask)


@pytest.mark.parametrize("rows", [1, 64])
def test_captured_tensors_are_touched_and_never_full(rows):
    dims, source, ranges = analyse(ROWS, PLAIN, "j <= i and table.bool[i, j]", rows)
    assert not ranges.full
    check(ranges, dims, rows, source, {"N": 130, "N_k": 130}, parse("j <= i"))
    assert analyse(ROWS, PLAIN, "not table.bool[i] and j < 3", rows)[2].full == ()


def texts(ranges: KeyRanges) -> tuple[list[str], list[str]]:
    return [str(r) for r in ranges.full], [str(r) for r in ranges.partial]


def test_common_patterns_have_few_short_ranges():
    def ranges(mask: str, key: str = "j < N"):
        return texts(analyse("b < B, h < H, i < N", key, mask, 64)[2])

    assert ranges("True") == (["0, N"], [])
    assert ranges("j <= i") == (["0, t * 64 + 1"], ["t * 64 + 1, min(N, t * 64 + 64)"])
    assert ranges("i // 64 == j // 64") == (["t * 64, min(N, t * 64 + 64)"], [])
    assert ranges("abs(i - j) <= 16") == ([], ["max(t * 64 - 16, 0), min(N, t * 64 + 80)"])
    full, partial = ranges("abs(i - j) <= 256")
    assert full == ["max(min(t * 64 + 64, N) - 257, 0), min(N, t * 64 + 257)"]
    assert len(partial) == 2
    full, partial = ranges("abs(i - j) <= 256 or j < 4")
    assert (len(full), len(partial)) == (2, 2)


def test_keys_of_an_image_are_pieces_of_its_rows():
    domain, _, ranges = analyse(
        "b < B, y < (N + 63) // 64, i < min(64, N - y * 64)",
        "j < N",
        "abs(y - j // 64) <= 3 and abs(i - j % 64) <= 3",
        16,
    )
    assert (len(ranges.full), len(ranges.partial)) == (0, 7)
    keys = [
        max(0, evaluate(r.hi, env) - evaluate(r.lo, env)) for env in [{"N": 4096, "y": 9, "t": 1}] for r in ranges.all
    ]
    assert keys == [16 + 2 * 3] * 7


def test_questions():
    dims = DimsAttr.read("b < B, h < H, i < N, j < N")
    assert implies(parse("j <= i and i - j < 4"), parse("abs(i - j) < 4"), dims)
    assert not implies(parse("j <= i"), parse("abs(i - j) < 4"), dims)
    assert implies(parse("i % 8 == j % 8 and m.bool[i]"), parse("(i - j) % 4 == 0"), dims)
    assert implies(parse("i // 64 == j // 64"), parse("abs(i - j) < 64"), dims)
    assert is_empty(parse("i < j and j < i"), dims)
    assert not is_empty(parse("i < j and j < i + 2"), dims)
    assert is_empty(parse("i == 5"), dims, [parse("N <= 5")])
    assert implies(parse("True"), parse("i < 128 * (N // 128)"), dims, [parse("N % 128 == 0")])


@pytest.mark.parametrize(
    ("mask", "key", "never"),
    [
        ("j <= i", "j < N", True),
        ("j <= i", "j < N_k", False),
        ("j < i", "j < N", False),
        ("abs(i - j) < 5", "j < N", True),
        ("abs(i - j) % 3 == 0 or m.bool[j]", "j < N", True),
        ("m.bool[j]", "j < N", False),
        ("i // 8 == j // 8", "j < N", True),
        ("i // 8 > j // 8", "j < N", False),
    ],
)
def test_rows_never_empty(mask, key, never):
    (k,) = DimsAttr.read(key)
    source = Source(k.name, k.extent, (), (), parse(mask))
    assert rows_never_empty(DimsAttr.read("b < B, i < N"), source) is never


def test_every_pair_of_patterns_joined_and_met():
    masks = ["j <= i", "abs(i - j) <= 9", "j < 4", "i // 16 == j // 16", "(i - j) % 4 == 0", "i < 3", "j > i + 30"]
    for a, b in itertools.combinations(masks, 2):
        for mask in (f"({a}) and ({b})", f"({a}) or ({b})", f"({a}) and not ({b})"):
            dims, source, ranges = analyse(ROWS, PLAIN, mask, 16)
            assert countable(source.mask)
            for n, n_k in ((7, 7), (65, 65), (65, 40), (33, 70)):
                check(ranges, dims, 16, source, {"N": n, "N_k": n_k}, source.mask)


def test_what_is_known_to_be_too_hard_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(question: object, otherwise: object) -> None:
        raise AssertionError("integer sets were asked")

    monkeypatch.setattr(index_sets, "within_budget", asked)
    # a dilated neighbourhood on an image, pushed inwards at its borders
    start = "min(max({0} // 2 - 1, 0), ({1} - {0} % 2 + 1) // 2 - 3)"
    parts = [("i // 7", "j // 7", "N // 7"), ("i % 7", "j % 7", "7")]
    seen = [f"{i} % 2 == {j} % 2 and {start.format(i, n)} <= {j} // 2 and {j} // 2 < {start.format(i, n)} + 3"
            for i, j, n in parts]  # fmt: skip
    source = Source("j", parse("N"), (), (), parse(" and ".join(seen)))
    domain = DimsAttr.read("b < B, i < N")
    for rows in (16, 64):
        assert key_ranges(domain, rows, source).partial
