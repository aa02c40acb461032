"""The first cost model: tiles that devices can hold, and the choices that follow from masks."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from attnc.compiler.analysis.cost import (
    UnknownTargetError,
    Work,
    choose_gradient_tiles,
    choose_tiles,
    device,
    faster,
)
from attnc.compiler.analysis.space import candidates
from attnc.ir.attn import Source
from attnc.ir.attributes import DimsAttr
from attnc.ir.expr import Lambda, parse

GPUS = ("sm_80", "sm_90", "sm_100", "gfx942")


def work(mask: str, width: int = 64, dtype: str = "f32", domain: str = "b < B, h < H, i < N", keys: str = "N") -> Work:
    source = Source("j", parse(keys), (), (), parse(mask))
    return Work(DimsAttr.read(domain), (source,), width, width, dtype)


def test_a_gradient_of_small_groups_has_no_more_rows_than_hold_one() -> None:
    windows = work("True", 64, "bf16", "b < B, h < H, w < W, i < 49", "49")
    assert choose_gradient_tiles(windows, "sm_90") == (64, 32)
    few_keys = work("True", 64, "bf16", "b < B, h < H, i < N", "49")
    assert choose_gradient_tiles(few_keys, "sm_90") == (128, 32)
    assert choose_gradient_tiles(work("True", 64, "bf16", "b < B, i < 7", "7"), "sm_80") == (16, 16)


def test_reads_of_a_pair_take_registers() -> None:
    def tile(score: str, target: str = "sm_90", width: int = 64) -> tuple[int, int]:
        plain = work("True", width, "bf16")
        (source,) = plain.sources
        source = replace(source, score=Lambda(("dot",), parse(score)))
        return choose_tiles(replace(plain, sources=(source,)), target)

    assert tile("dot") == tile("dot + slope[h]") == tile("dot + a[i] + b[j]") == (128, 128)
    assert tile("dot + bias[h, i, j]") == tile("dot + table[h, i - j]") == (128, 64)
    assert tile("dot + bias[h, i, j]", width=128) == (128, 64)
    assert tile("dot + table[h, i - j]", width=128) == (128, 32)
    # where scores and probabilities are in registers at once, the latter count as well
    assert tile("dot", "sm_80") == (128, 64)
    assert tile("dot + bias[h, i, j]", "sm_80", 128) == (128, 32)


@pytest.mark.parametrize("target", GPUS)
def test_plain_multiply_adds_need_small_tiles(target: str) -> None:
    for width in (16, 64, 128, 256, 512):
        for dtype, most in (("f32", (64, 32)), ("f64", (32, 32))):
            found = candidates(work("True", width, dtype), device(target))
            assert all(c.rows <= most[0] and c.keys <= most[1] for c in found)
            rows, keys = choose_tiles(work("True", width, dtype), target)
            assert min(rows, keys) >= 16
            assert width <= 128 or rows * width <= 64 * 128


@pytest.mark.parametrize("target", GPUS)
def test_matrix_units_get_large_tiles(target: str) -> None:
    rows, keys = choose_tiles(work("True", 64, "bf16"), target)
    assert rows >= 64
    assert keys >= 32


def test_narrow_bands_get_fewer_queries() -> None:
    assert choose_tiles(work("True"), "cpu-avx512")[0] == 64
    assert choose_tiles(work("j <= i"), "cpu-avx512")[0] == 64
    residues = work("abs(i - j) <= 32", domain="b < B, r < 8, i < (N - r + 7) // 8", keys="(N - r + 7) // 8")
    assert choose_tiles(residues, "cpu-avx512")[0] < 64
    assert choose_tiles(work("abs(i - j) <= 4"), "cpu-avx512")[0] == 16
    assert choose_tiles(work("abs(i - j) <= 4", dtype="bf16"), "cpu-avx512-amx")[0] < 256


def test_holes_are_worth_taking_out() -> None:
    before = work("abs(i - j) <= 256 and (i - j) % 8 == 0")
    after = work("abs(i - j) <= 32", domain="b < B, h < H, r < 8, i < (N - r + 7) // 8", keys="(N - r + 7) // 8")
    for target in ("cpu-avx512", "cpu-avx2", *GPUS):
        assert faster(after, before, target)
        assert not faster(before, after, target)


@pytest.mark.parametrize(
    "target, dtype, width, tiles",
    [
        ("cpu-avx512", "f32", 64, (64, 96)),
        ("cpu-avx512", "f64", 64, (32, 96)),
        ("cpu-avx512", "f16", 64, (128, 48)),
        ("cpu-avx512-bf16", "bf16", 64, (64, 64)),
        ("cpu-avx2", "f32", 64, (24, 64)),
        ("cpu-avx2", "bf16", 64, (48, 64)),
        ("sm_90", "bf16", 64, (128, 32)),
        ("sm_90", "bf16", 80, (128, 32)),
        ("sm_80", "f16", 128, (32, 32)),
        ("gfx942", "bf16", 128, (32, 16)),
        ("sm_80", "f16", 256, (32, 32)),
        ("sm_80", "f32", 64, (32, 32)),
        ("sm_80", "f32", 128, (16, 16)),
        ("sm_80", "f32", 256, (16, 16)),
    ],
)
def test_tiles_of_gradients(target: str, dtype: str, width: int, tiles: tuple[int, int]) -> None:
    assert choose_gradient_tiles(work("True", width, dtype), target) == tiles


def test_gradients_of_narrow_bands_take_fewer_rows() -> None:
    """A lower tile has fewer dead pairs at its edges."""
    narrow, wide = (choose_gradient_tiles(work(f"abs(i - j) <= {n}"), "cpu-avx512") for n in (32, 2048))
    assert narrow[0] < wide[0]


@pytest.mark.parametrize("target", GPUS)
def test_tiles_of_gradients_fit(target: str) -> None:
    for width, dtype in itertools.product((1, 16, 80, 128, 256, 512), ("f16", "bf16", "f32", "f64")):
        rows, step = choose_gradient_tiles(work("True", width, dtype), target)
        size = {"f64": 8, "f32": 4}.get(dtype, 2)
        assert (rows + 2 * step) * 2 * width * size <= device(target).fast or (rows, step) == (16, 16)


def test_targets() -> None:
    assert device("sm_89").name == "sm_80"
    assert device("sm_90a").name == "sm_90"
    assert device("sm_120").name == "sm_100"
    assert device("gfx950").name == "gfx942"
    with pytest.raises(UnknownTargetError, match="there is no target 'tpu'"):
        device("tpu")


@pytest.mark.parametrize("count", ["W", "N // 49", "(N + 48) // 49"])
def test_groups_are_weighed_however_they_are_counted(count: str) -> None:
    windows = work("True", 64, "bf16", f"b < B, h < H, w < {count}, i < 49", "49")
    for target, tile in (("sm_90", (64, 64)), ("cpu-avx512-amx", (64, 256))):
        assert choose_tiles(windows, target) == tile
