"""What ``explain`` says, on IR written by hand."""

from __future__ import annotations

import pytest
import torch

from attnc.compiler.coverage import coverage, loops_of
from attnc.compiler.explain import MissingSizeError
from attnc.compiler.lowered import Lowered
from attnc.compiler.wording import in_words
from attnc.ir import tile
from attnc.ir.expr import evaluate, parse
from attnc.ir.text import parse_module

MODULE = """
attn.func @f(%q: !attn.tensor<"H, N, 16", f32>, %k: !attn.tensor<"H, N, 16", f32>, %v: !attn.tensor<"H, N, 16", f32>) {{
  %o, %lse = attn.attend over "h < H, i < N"
    query %q "h, i, d" width 16
    source "j < N" key %k "h, j, d" value %v "h, j, e" mask "{mask}" score "lambda dot: dot * 0.25"
    normaliser softmax
    out "h, i, e" width 16 lse "h, i" attributes {{at = "model.py:12"}}
    : (!attn.tensor<"H, N, 16", f32>, !attn.tensor<"H, N, 16", f32>, !attn.tensor<"H, N, 16", f32>)
    -> (!attn.tensor<"H, N, 16", f32>, !attn.tensor<"H, N", f32>)
  {after}
}}
"""
RETURN = 'attn.return %o : !attn.tensor<"H, N, 16", f32>'
OUTER = """%s = attn.call "x0 @ x0.mT" (%o) {at = "model.py:13"}
    : (!attn.tensor<"H, N, 16", f32>) -> !attn.tensor<"H, N, N", f32>
  attn.return %s : !attn.tensor<"H, N, N", f32>"""


def lowered(mask: str, after: str = RETURN, target: str = "cpu-avx512", **sizes: int) -> Lowered:
    text = MODULE.format(mask=mask, after=after)
    hints = {"H": 2, "N": 1000, **sizes}
    return Lowered("", lambda: parse_module(text), "reference", "f32", torch.device("cpu"), {}, target, hints)


@pytest.mark.parametrize(
    "mask, live",
    [
        ("True", 1000 * 1000),
        ("j <= i", 1000 * 1001 // 2),
        ("abs(i - j) <= 40", 1000 * 81 - 40 * 41),
        ("i // 100 == j // 100", 1000 * 100),
    ],
)
def test_live_pairs_are_counted(mask: str, live: int) -> None:
    page = lowered(mask).explain()
    (kernel,) = page.kernels
    assert page.fused
    assert (kernel.pairs, kernel.live_pairs) == (2 * 1000 * 1000, 2 * live)
    assert page.live_fraction == live / 1e6
    assert page.live_fraction <= page.computed_fraction <= 1
    assert page.flops == 2 * 32 * kernel.coverage.computed_pairs
    assert page.bytes == 4 * 2 * 1000 * (4 * 16 + 1)


def test_the_table() -> None:
    text = str(lowered("abs(i - j) <= 40 and j <= i").explain())
    parts = [
        "f: fused, 1 kernel for reference",
        "from model.py:12",
        "causal; at most 40 keys back",
        "{ (i, j) : 0 <= i < N, 0 <= j < N, ",
        "empty (skipped)",
        "partial [",
    ]
    assert [p for p in parts if p not in text] == []


def test_a_dilated_window_is_split() -> None:
    page = lowered("abs(i - j) <= 160 and (i - j) % 8 == 0").explain()
    (kernel,) = page.kernels
    assert kernel.pattern == "window of 160 keys on each side; every 8th key"
    assert "8 independent parts" in kernel.domain
    assert kernel.live_pairs == 2 * sum(abs(i - j) <= 160 for i in range(1000) for j in range(i % 8, 1000, 8))
    assert page.computed_fraction < 0.15


def test_quadratic_calls_are_named() -> None:
    page = lowered("True", OUTER).explain()
    assert not page.fused
    (op,) = page.eager_ops
    assert (op.at, op.bytes) == ("model.py:13", 4 * 2 * 1000 * 1000)
    assert "NOT fused" in str(page)


def test_other_sizes() -> None:
    from attnc.compiler.explain import explain

    assert explain(lowered("j <= i"), {"N": 10}).sizes == {"H": 2, "N": 10}
    missing = lowered("j <= i")
    missing.hints = {"H": 2}
    with pytest.raises(MissingSizeError, match="size N"):
        missing.explain()


def test_coverage_counts_what_the_loops_do() -> None:
    module = lowered("j <= i or j < 5").module("tile")
    (kernel,) = tile.kernels_of(module).values()
    sizes = {"H": 2, "N": 333}
    got = coverage(kernel, sizes)
    pairs, tiles = 0, {"full": 0, "partial": 0}
    for t in range(-(-333 // got.queries)):
        rows = min(got.queries, 333 - t * got.queries)
        for loop in loops_of(kernel):
            for r in loop.ranges:
                lo, hi = (int(evaluate(e, {**sizes, "t": t, "h": 0})) for e in (r.lo, r.hi))
                pairs += 2 * rows * max(hi - lo, 0)
                tiles[loop.kind] += 2 * -(-max(hi - lo, 0) // loop.step)
    assert (got.computed_pairs, got.full, got.partial) == (pairs, tiles["full"], tiles["partial"])
    assert got.tasks == 2 * -(-333 // got.queries)


@pytest.mark.parametrize(
    "mask, words",
    [
        ("True", "every key"),
        ("j <= i", "causal"),
        ("j < i", "causal, without the query itself"),
        ("i - j <= 255 and j <= i", "causal; at most 255 keys back"),
        ("abs(i - j) <= 256", "window of 256 keys on each side"),
        ("(i - j) % 8 == 0", "every 8th key"),
        ("i // 128 == j // 128", "blocks of 128"),
        ("j < 4 or abs(i - j) <= 64", "the first 4 keys or window of 64 keys on each side"),
        ("doc.int[i] == doc.int[j]", "`doc.int[i] == doc.int[j]` (depends on doc)"),
        ("abs(i % 64 - j % 64) <= 3", "columns of a grid 64 wide within 3"),
        ("i * j < 7", "`i * j < 7`"),
    ],
)
def test_words(mask: str, words: str) -> None:
    assert in_words(parse(mask), "i", "j") == words
