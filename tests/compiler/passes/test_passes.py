"""Every pass: its text by the ``*.mlir`` files here, its meaning by the interpreter before and after."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attnc.compiler.pass_manager import PassManager, parse_passes
from attnc.compiler.passes import PASSES, UnknownPassError, load_pass
from attnc.ir.interpret import interpret
from attnc.ir.text import parse_module, verify
from tests.filecheck import run_file

FILES = sorted(Path(__file__).parent.glob("*.mlir"))
LOWER = "choose-tiles{rows=16 keys=16},online-softmax,key-ranges"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_text(path: Path) -> None:
    run_file(path)


def test_every_pass_has_a_class_of_its_name() -> None:
    for name in PASSES:
        assert load_pass(name).name == name
    with pytest.raises(UnknownPassError, match="there is no pass 'dilate'"):
        load_pass("dilate")


def module(mask: str, score: str = "lambda dot: dot * 0.25", *, keys: str = "M", reorder: bool = False):
    query, key = '!attn.tensor<"B, H, N, 8", f64>', f'!attn.tensor<"B, H, {keys}, 8", f64>'
    table = '!attn.tensor<"H, 7", f64>'
    roll = (
        f'%r = attn.reorder %q index "x0, x1, (x2 + 3) % N, x3" inverse "x0, x1, (x2 - 3) % N, x3" : {query} -> {query}'
    )
    back = roll.replace("%r", "%y").replace("%q", "%o")
    return parse_module(
        f"""attn.func @f(%q: {query}, %k: {key}, %v: {key}, %table: {table}) {{
          {roll if reorder else ""}
          %o, %lse = attn.attend over "b < B, h < H, i < N"
            query {"%r" if reorder else "%q"} "b, h, i, d" width 8
            source "j < {keys}" key %k "b, h, j, d" value %v "b, h, j, e" mask "{mask}" score "{score}"
            capture table = %table
            normaliser softmax
            out "b, h, i, e" width 8 lse "b, h, i"
            : ({query}, {key}, {key}, {table}) -> ({query}, !attn.tensor<"B, H, N", f64>)
          {back if reorder else ""}
          attn.return {"%y" if reorder else "%o"}, %lse : {query}, !attn.tensor<"B, H, N", f64>
        }}"""
    )


CASES = {
    "key-ranges": [
        (LOWER, mask)
        for mask in (
            "True",
            "False",
            "j <= i",
            "j <= i + M - N",
            "abs(i - j) <= 20",
            "abs(i - j) <= 9 or j < 4",
            "j < 5 or i < 3",
            "j <= i and (i - j < 9 or j < 4)",
            "i // 24 >= j // 24",
            "where(h < 1, j <= i, abs(i - j) <= 9)",
            "(i ^ j) < 9",
            "table[h, j % 7] > 0.0 and j <= i",
            "abs(i - j) <= h * 8",
        )
    ],
    "dilation": [
        ("dilation{always=true},simplify-masks," + LOWER, mask)
        for mask in (
            "abs(i - j) <= 24 and (i - j) % 8 == 0",
            "(i - j & 3) == 0 and j <= i",
            "j % 8 == (i + 3) % 8",
            "(i + M - N - j) % 8 == 0 and j <= i + M - N",
            "(i - j) % 4 == h",
            "(i - j) % 4 == 0 and table[h, j % 7] > 0.0",
        )
    ],
    "image-rows": [
        ("image-rows{always=true}," + LOWER, mask)
        for mask in (
            "abs(i // 7 - j // 7) <= 1 and abs(i % 7 - j % 7) <= 1",
            "abs(i // 20 - j // 20) <= 2 and abs(i % 20 - j % 20) <= 1 and j <= i",
            "i // 7 <= j // 7 and i % 7 == h",
        )
    ],
    "block-diagonal": [
        ("block-diagonal{always=true},dilation{always=true}," + LOWER, mask)
        for mask in (
            "i // 7 == j // 7",
            "i // 16 == j // 16 and j <= i",
            "abs(i // 7 - j // 7) < 1",
            "(i + 3) // 7 == (j + 5) // 7",
            "i - i % 7 == j - j % 7 and (i - j) % 2 == 0",
            "i >> 3 == j >> 3",
            "i // 7 == j // 7 and table[h, i % 7] > 0.0",
        )
    ],
    "simplify-masks": [
        ("simplify-masks," + LOWER, mask)
        for mask in (
            "i - j >= 0 and j <= i and i < N",
            "abs(i - j) < 9 or i == j",
            "not (j > i)",
            "i // 2 == j // 2 and i // 4 == j // 4",
        )
    ],
}
SIZES = [
    (2, 2, 37, 37),
    (1, 3, 40, 21),
    (1, 2, 21, 40),
    (1, 1, 1, 1),
    (1, 2, 1, 50),
    (2, 1, 0, 5),
    (1, 1, 5, 0),
    (1, 1, 64, 64),
]


def same(before, after, sizes) -> None:
    generator = torch.Generator().manual_seed(0)
    for b, h, n, m in sizes:
        shapes = [(b, h, n, 8), (b, h, m, 8), (b, h, m, 8), (h, 7)]
        inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        for x, y in zip(interpret(before, inputs), interpret(after, inputs), strict=True):
            torch.testing.assert_close(x, y, msg=lambda text, at=(b, h, n, m): f"at {at}: {text}")


def transformed(source, passes: str):
    result = PassManager(parse_passes(passes)).run(source.clone())
    verify(result)
    return result


@pytest.mark.parametrize(("passes", "mask"), [c for cases in CASES.values() for c in cases])
def test_meaning(passes: str, mask: str) -> None:
    source = module(mask)
    same(source, transformed(source, passes), SIZES)


@pytest.mark.parametrize(
    "score",
    [
        "lambda dot: where(j <= i, dot, -1000000000.0)",
        "lambda dot: dot * 0.5 + where(abs(i - j) > 9, -1000000000.0, 0.0)",
        "lambda dot: where(j < i, dot, -1000000000.0)",
        "lambda dot: where(j < i, dot + table[h, j % 7], -inf)",
    ],
)
def test_fills_keep_their_meaning(score: str) -> None:
    source = module("True", score, keys="N")
    same(source, transformed(source, "simplify-masks," + LOWER), [(2, 2, 37, 37), (1, 1, 1, 1), (1, 1, 0, 0)])


def test_reorders_keep_their_meaning() -> None:
    source = module("j <= i", reorder=True)
    folded = transformed(source, "fold-reorders")
    assert not any(op.name == "attn.reorder" for op in folded.walk())
    same(source, folded, [(2, 2, 37, 37), (1, 1, 5, 9), (1, 1, 1, 1)])


def test_passes_do_nothing_the_second_time() -> None:
    for name in ("simplify-masks", "fold-reorders", "block-diagonal", "dilation"):
        once = transformed(module("abs(i - j) <= 24 and (i - j) % 8 == 0 and i // 49 == j // 49"), name)
        assert str(transformed(once, name)) == str(once)


def two_sources(first: str, second: str):
    """Rows see every key of ``%k`` and of a shorter ``%m`` that the masks allow, under one softmax."""
    query, key, other = ('!attn.tensor<"B, H, ' + n + ', 8", f64>' for n in ("N", "M", "M // 2"))
    return parse_module(
        f"""attn.func @f(%q: {query}, %k: {key}, %v: {key}, %m: {other}) {{
          %o, %lse = attn.attend over "b < B, h < H, i < N"
            query %q "b, h, i, d" width 8
            source "j < M" key %k "b, h, j, d" value %v "b, h, j, e" mask "{first}" score "lambda dot: dot * 0.25"
            source "j < M // 2" key %m "b, h, j, d" value %m "b, h, j, e" mask "{second}" score "lambda dot: dot"
            normaliser softmax
            out "b, h, i, e" width 8 lse "b, h, i"
            : ({query}, {key}, {other}, {key}, {other}) -> ({query}, !attn.tensor<"B, H, N", f64>)
          attn.return %o, %lse : {query}, !attn.tensor<"B, H, N", f64>
        }}"""
    )


@pytest.mark.parametrize(
    ("first", "second", "splits"),
    [
        ("(i - j) % 4 == 0 and j <= i", "(i - j) % 4 == 1", True),
        ("(i - j & 7) == 0 and abs(i - j) <= 24", "i % 8 == (j + 3) % 8 or i % 8 == j % 8 + 3", True),
        ("(i - j) % 4 == 0 and j <= i", "j <= i", False),
        ("(i - j) % 4 == 0", "(i - j) % 6 == 0", False),
    ],
)
def test_dilation_of_several_sources(first: str, second: str, splits: bool) -> None:
    source = two_sources(first, second)
    split = transformed(source, "simplify-masks,dilation{always=true},simplify-masks")
    assert ("r < " in str(split)) is splits
    lowered = transformed(split, LOWER)
    generator = torch.Generator().manual_seed(0)
    for n, m in ((37, 37), (40, 21), (5, 40), (1, 1), (0, 3)):
        shapes = [(1, 2, n, 8), (1, 2, m, 8), (1, 2, m, 8), (1, 2, m // 2, 8)]
        inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        for x, y in zip(interpret(source, inputs), interpret(lowered, inputs), strict=True):
            torch.testing.assert_close(x, y)
