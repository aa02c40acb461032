"""What index maps determine, against all points of small domains."""

from __future__ import annotations

import itertools

import pytest

from attnc.compiler.analysis import injective
from attnc.compiler.analysis.injective import reach
from attnc.ir.attributes import DimsAttr
from attnc.ir.expr import evaluate, parse, parse_map

RESIDUES = "b < B, r < 8, i < (N - r + 7) // 8"
SHIFTED = "(M + r - N) % 8"
BLOCKS = "b < B, g < (N + 6) // 7, i < min(7, N - g * 7)"
SQUARES = "b < B, x < H // 3, y < N // 3, i < 9"
THIRDS = ("H % 3 == 0", "N % 3 == 0")

# dims, index, shape, facts, determined, onto
CASES = [
    ("b < B, h < H, i < N", "b, h, i", "B, H, N", (), "b h i", True),
    ("b < B, h < H, i < N", "i, b, h", "N, B, H", (), "b h i", True),
    ("b < B, h < H, i < N", "b, i", "B, N", (), "b i", False),  # without heads, nothing is met
    ("b < B, h < H, i < N", "b, 0, i", "B, H, N", (), "b i", False),
    ("b < B, h < H, i < N", "b, h // 4, i", "B, (H + 3) // 4, N", (), "b i", True),
    ("b < B, h < H, i < N", "b * H + h, i", "B * H, N", (), "b h i", True),
    ("b < B, h < H, i < N", "b, h, N - 1 - i", "B, H, N", (), "b h i", True),
    ("b < B, h < H, i < N", "b, h, (i + 3) % N", "B, H, N", (), "b h i", True),
    ("b < B, h < H, i < N", "b, h, i + 1", "B, H, N + 2", (), "b h i", False),
    ("b < B, h < H, i < N", "b, h, min(i, 3)", "B, H, N", (), "b h", False),
    ("b < B, h < H, i < N", "b, h, i, i", "B, H, N, N", (), "b h i", False),
    ("b < B * H, i < N", "b // H, b % H, i", "B, H, N", (), "b i", True),
    ("b < B, h < M, g < H // M, i < N", "b, h * (H // M) + g, i", "B, H, N", (), "b h g i", False),
    ("b < B, i < 1", "b, 0", "B, 1", (), "b i", True),
    (RESIDUES, "b, i * 8 + r", "B, N", (), "b r i", True),
    (RESIDUES, f"b, i * 8 + {SHIFTED}", "B, N + 8", (), "b r i", False),
    (BLOCKS, "b, g * 7 + i", "B, N", (), "b g i", True),
    (BLOCKS, "b, (g * 7 + i + 3) % N", "B, N", (), "b g i", True),
    (SQUARES, "b, x * 3 + i // 3, y * 3 + i % 3", "B, H, N", THIRDS, "b x y i", True),
    (SQUARES, "b, (x * 3 + i // 3 + 1) % H, (y * 3 + i % 3 + 2) % N", "B, H, N", THIRDS, "b x y i", True),
    ("b < B, i < 24", "b, i % 3 + i // 12 * 12 + i // 3 % 2 * 6 + i // 6 % 2 * 3", "B, 24", (), "b i", True),
    ("b < B, i < 24", "b, i % 3 + i // 12 * 12 + i // 3 % 2 * 6 + i // 6 % 2 * 3 + 1", "B, 26", (), "b i", False),
    ("b < B, i < 24, j < 24 - i", "b, (i + j) // 2", "B, 12", (), "b", True),
    ("b < B, i < 8, j < 8 - i", "b, i * i // 2 + j % 2", "B, 40", (), "b", False),
    ("h < H, i < N, j < M", "h, i - j + 20", "H, 50", (), "h", False),
    ("h < H, i < N, j < M", "h, table.int[i, j]", "H, 9", (), "h", False),
]


def test_blocks_and_residues_take_no_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(injective, "_by_sets", None)
    for dims, index in ((RESIDUES, "b, i * 8 + r"), (BLOCKS, "b, i + g * 7")):
        reach.__wrapped__(parse_map(index), DimsAttr.read(dims), parse_map("B, N"))


@pytest.mark.parametrize(("dims", "index", "shape", "facts", "determined", "onto"), CASES, ids=[c[1] for c in CASES])
def test_reach(dims: str, index: str, shape: str, facts: tuple[str, ...], determined: str, onto: bool) -> None:
    domain, at, sizes = DimsAttr.read(dims), parse_map(index), parse_map(shape)
    found = reach(at, domain, sizes, tuple(parse(f) for f in facts))
    assert found.determined == set(determined.split())
    assert found.onto is onto
    if "table" in index:
        return
    for values in itertools.product((0, 1, 2), (0, 3, 6), (0, 1, 3, 9, 15), (1, 2, 9)):
        env = dict(zip("BHNM", values, strict=True))
        if all(evaluate(parse(f), env) for f in facts):
            check(domain, at, sizes, env, found.determined, onto)


def check(domain, at, shape, env, determined, onto) -> None:
    points = [env]
    for d in domain:
        points = [{**p, d.name: n} for p in points for n in range(evaluate(d.extent, p))]
    seen: dict[tuple[int, ...], dict[str, int]] = {}
    for p in points:
        element = tuple(int(evaluate(e, p)) for e in at)
        other = seen.setdefault(element, p)
        assert all(p[n] == other[n] for n in determined), f"{p} and {other} share {element}"
    if onto:
        box = itertools.product(*(range(int(evaluate(s, env))) for s in shape))
        assert set(box) <= seen.keys(), env
