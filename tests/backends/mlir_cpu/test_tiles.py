"""Products of bf16 on matrix registers (AMX): numbers at awkward sizes, instructions, and hosts without them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable

import pytest
import torch

import attnc
from attnc.backends import get_backend
from attnc.backends.mlir_cpu import target
from attnc.backends.mlir_cpu.lower import lower
from attnc.ir.tile import kernels_of
from tests import patterns
from tests.numerics import assert_gradients_match, assert_matches, cotangents
from tests.patterns import causal

from .backward_kernels import KeyBackward, NarrowBackward, check_backward
from .kernels import Forward, NarrowForward, check_forward, parse_kernel

needs_tiles = pytest.mark.skipif(not target.tiles_permitted(), reason="needs a CPU with AMX and bf16")


def wide(q, k, v):
    i, j = patterns.positions(q, k)
    return (q @ k.mT / 8).masked_fill((i - j).abs() > 50, -math.inf).softmax(-1) @ v


def global_and_wide(q, k, v):
    i, j = patterns.positions(q, k)
    live = ((i - j).abs() <= 50) | (j < 4) | (i == 7)
    return (q @ k.mT / 8).masked_fill(~live, -math.inf).softmax(-1) @ v


def capped(q, k, v):
    return (20.0 * torch.tanh(q @ k.mT / (20.0 * q.shape[-1] ** 0.5))).softmax(-1) @ v


def squashed(q, k, v):
    return (30.0 * torch.sigmoid(q @ k.mT / q.shape[-1] ** 0.5)).softmax(-1) @ v


@needs_tiles
@pytest.mark.parametrize("layout", ["bhnd", "bnhd", "bhdn"])
@pytest.mark.parametrize(("d", "e"), [(20, 33), (64, 64), (5, 80), (32, 128)])
def test_forward(d: int, e: int, layout: str) -> None:
    check_forward(NarrowForward(D=d, E=e), layout=layout)


@needs_tiles
@pytest.mark.parametrize("length", [(63, 64), (65, 63), (127, 3), (129, 257), (1, 300), (64, 1), (64, 159)])
@pytest.mark.parametrize("rows", [16, 64, 80, 256])
def test_lengths(rows: int, length: tuple[int, int]) -> None:
    check_forward(NarrowForward(D=32, rows=rows), [length])


@needs_tiles
def test_index_maps_that_are_not_affine() -> None:
    check_forward(NarrowForward(query="b, h, N - 1 - i, d", key="b, h, M - 1 - j, d", value="b, h, (j + 3) % M, e"))


@needs_tiles
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("layout", ["bhnd", "bnhd", "bhdn"])
@pytest.mark.parametrize(("d", "e"), [(20, 33), (64, 64)])
def test_backward(d: int, e: int, layout: str, fused: bool) -> None:
    check_backward(NarrowBackward(D=d, E=e, fused=fused), layout=layout)


@needs_tiles
@pytest.mark.parametrize("length", [1, 31, 65, 200])
def test_captured_functions(length: int) -> None:
    inputs = [torch.randn(1, 2, length, 40).bfloat16() for _ in range(3)]
    compiled = attnc.compile(causal)
    assert_matches(causal, compiled(*inputs), inputs)
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = compiled(*leaves)
    assert_gradients_match(causal, torch.autograd.grad(out, leaves, cotangents(out, 1)[0]), inputs)


@pytest.mark.parametrize(("case", "kinds"), [(NarrowForward(), 2), (Forward(dt="bf16"), 1), (NarrowBackward(), 5)])
def test_products_run_on_tiles(case: Forward | KeyBackward, kinds: int) -> None:
    text = lower(parse_kernel(case.text), target.TARGETS["avx512-amx"]).text
    assert text.count('"llvm.x86.tdpbf16ps"') == 2 * kinds


def tile_calls(case: Forward | KeyBackward) -> list[tuple[str, str]]:
    """Every instruction on matrix registers, in order, with its first operand."""
    text = lower(parse_kernel(case.text), target.TARGETS["avx512-amx"]).text
    return re.findall(r'"llvm.x86.(tile[lsz]\w+|tdpbf16ps)"\((%\w+)', text)


@pytest.mark.parametrize("case", [NarrowForward(), NarrowForward(D=64, E=64), NarrowBackward()])
def test_registers_are_free_when_they_are_not_in_use(case: Forward | KeyBackward) -> None:
    held = set()
    for name, register in tile_calls(case):
        if name == "tilezero":
            held.discard(register)
        elif name in ("tileloadd64", "tdpbf16ps"):
            held.add(register)
        assert len(held) <= 7
    assert not held


@pytest.mark.parametrize(("d", "loads"), [(32, 3), (64, 5), (96, 2)])
def test_queries_stay_in_registers_where_they_fit(d: int, loads: int) -> None:
    names = [name for name, _ in tile_calls(NarrowForward(D=d)) if name != "tilezero"]
    assert names.index("tdpbf16ps") == loads


@needs_tiles
@pytest.mark.parametrize("pattern", [patterns.window, patterns.dilated, patterns.causal_bottom_right, global_and_wide])
@pytest.mark.parametrize("length", [(31, 31), (300, 300), (515, 290), (33, 700)])
def test_strips_look_at_their_own_keys(pattern: Callable[..., torch.Tensor], length: tuple[int, int]) -> None:
    inputs = [torch.randn(1, 2, n, 40).bfloat16() for n in (length[0], length[1], length[1])]
    assert_matches(pattern, attnc.compile(pattern)(*inputs), inputs)


@needs_tiles
def test_many_small_tasks() -> None:
    """Some are taken at a time, and each asks for the rows of the next, of which the last has none."""
    inputs = [torch.randn(65, 33, n, 32).bfloat16() for n in (20, 7, 7)]
    assert_matches(patterns.dilated, attnc.compile(patterns.dilated)(*inputs), inputs)


def test_rows_of_the_next_task_are_asked_for_under_narrow_masks() -> None:
    dilated = NarrowForward(D=64, E=64, key="b, h, j * 2, d").text
    texts = [dilated, dilated.replace("partial carry", "full carry"), NarrowForward(D=64, E=64).text]
    asked = [lower(parse_kernel(text), target.TARGETS["avx512-amx"]).text.count("rw = 0") for text in texts]
    # two passes over pairs, in blocks and what is left; two rows at a time, two lines each
    assert asked == [2 * 2 * 2 * 2, 0, 0]


def test_dead_blocks_are_skipped() -> None:
    """A strip of a window has fewer keys than its tile, and starts at a block of its own."""
    q = torch.randn(1, 1, 600, 64).bfloat16()
    lowered = attnc.compile(wide, options={"target": "cpu-avx512-amx"}).lower(q, q, q)
    assert "strip = #builtin.int<32>" in lowered.ir("tile")


@pytest.mark.parametrize(("pattern", "loops"), [(wide, 1), (capped, 0)])
def test_masks_are_evaluated_at_the_sides_of_a_strip(pattern: Callable[..., torch.Tensor], loops: int) -> None:
    """Where one range of keys is seen by all rows of a strip, what is left lies on two sides of it."""
    q = torch.randn(1, 1, 600, 64).bfloat16()
    lowered = attnc.compile(pattern, options={"target": "cpu-avx512-amx"}).lower(q, q, q)
    (text,) = (
        lower(kernel, target.TARGETS["avx512-amx"]).text for kernel in kernels_of(lowered.module("tile")).values()
    )
    assert len(re.findall(r"scf.for %side", text)) == loops


@needs_tiles
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("scale", [1, 8])
@pytest.mark.parametrize("score", [capped, squashed])
def test_scores_are_fine_where_probabilities_are_coarse(
    score: Callable[..., torch.Tensor], scale: int, width: int
) -> None:
    inputs = [torch.randn(1, 2, 200, width).mul(scale if n < 2 else 1).bfloat16() for n in range(3)]
    compiled = attnc.compile(score)
    assert_matches(score, compiled(*inputs), inputs)
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = compiled(*leaves)
    assert_gradients_match(score, torch.autograd.grad(out, leaves, cotangents(out, 1)[0]), inputs)


@pytest.mark.parametrize("dt", ["f32", "f64", "f16"])
def test_other_types_do_not(dt: str) -> None:
    plain, amx = (target.TARGETS[n] for n in ("avx512", "avx512-amx"))
    amx = dataclasses.replace(amx, name=plain.name, extensions=plain.extensions)
    texts = {lower(parse_kernel(Forward(dt=dt).text), t).text for t in (plain, amx)}
    assert len(texts) == 1


@needs_tiles
def test_object_holds_the_instruction() -> None:
    artifact = get_backend("cpu").compile(parse_kernel(NarrowForward().text), stages=["llvm"])
    assert "llvm.x86.tdpbf16ps" in artifact.stages["llvm"]


def test_permission_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may keep matrix registers from a process: kernels then use none."""
    monkeypatch.setattr(target, "tiles_permitted", lambda: False)
    target.host_target.cache_clear()
    try:
        assert not target.host_target().tiles
        options = get_backend("cpu").pipeline_options("bf16", torch.device("cpu"))
        assert options["narrow"] == target.host_target().pairs
        assert options["target"] != "cpu-avx512-amx"
        check_forward(NarrowForward(D=20), [(65, 130)], target=target.host_target().name)
    finally:
        target.host_target.cache_clear()
