"""Products of probabilities on pairs of bf16 in vector registers: numbers at awkward sizes, instructions, no leaks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import attnc
from attnc.backends import get_backend
from attnc.backends.mlir_cpu import target
from tests import patterns
from tests.numerics import assert_gradients_match, assert_matches, gradients

from .backward_kernels import KeyBackward, NarrowBackward, check_backward
from .kernels import Forward, NarrowForward, check_forward, parse_kernel
from .machine_code import disassembly, product_loops, products

ON = "avx512-bf16"
OPTIONS = {"target": f"cpu-{ON}"}
COUNTS = [(64, 1), (64, 2), (1, 3), (33, 65), (65, 66), (7, 67), (129, 257), (64, 0), (0, 5)]

runs_here = pytest.mark.skipif(
    not set(target.TARGETS[ON].requires) <= set(target.cpu_features()), reason="needs the instruction"
)


def signed(q, k, v):
    """Scores are the weights: the pass of the first product stores them as pairs."""
    return (q @ k.mT / q.shape[-1]).relu() @ v


def masked(q, k, v):
    """Some rows see nothing, others an odd number of keys."""
    i, j = patterns.positions(q, k)
    return (q @ k.mT / 8).masked_fill((j > i - 5) | (j % 3 == 1), -1e30).softmax(-1) @ v


def inputs_of(n: int, m: int, d: int, e: int) -> list[torch.Tensor]:
    return [torch.randn(1, 2, *shape).bfloat16() for shape in ((n, d), (m, d), (m, e))]


@runs_here
@pytest.mark.parametrize("layout", ["bhnd", "bnhd", "bhdn"])
@pytest.mark.parametrize(("d", "e"), [(20, 33), (64, 64), (5, 80), (80, 5)])
def test_forward(d: int, e: int, layout: str) -> None:
    check_forward(NarrowForward(D=d, E=e), layout=layout, target=ON)


@runs_here
@pytest.mark.parametrize("rows", [16, 48, 64, 128])
def test_counts(rows: int) -> None:
    check_forward(NarrowForward(D=32, rows=rows), COUNTS, target=ON)


@runs_here
@pytest.mark.parametrize("layout", ["bhnd", "bnhd", "bhdn"])
@pytest.mark.parametrize(("d", "e"), [(20, 33), (128, 128), (5, 80), (80, 5)])
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_few_rows(rows: int, d: int, e: int, layout: str) -> None:
    counts = [(1, 1), (1, 2), (3, 65), (5, 257), (2, 0)]
    check_forward(NarrowForward(D=d, E=e, rows=rows), counts, layout=layout, target=ON)


@runs_here
def test_steps_of_any_size() -> None:
    loops = ((("0, M // 2", "M // 2, M - 1"), 33), (("M - 1, M",), 7))
    check_forward(NarrowForward(loops=loops), [c for c in COUNTS if 0 not in c], target=ON)


@runs_here
def test_index_maps_that_are_not_affine() -> None:
    for rows in (64, 4):
        maps = {"query": "b, h, N - 1 - i, d", "key": "b, h, M - 1 - j, d", "value": "b, h, (j + 3) % M, e"}
        check_forward(NarrowForward(rows=rows, **maps), target=ON)


@runs_here
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("layout", ["bhnd", "bnhd", "bhdn"])
@pytest.mark.parametrize(("d", "e"), [(20, 33), (64, 64), (5, 80)])
def test_backward(d: int, e: int, layout: str, fused: bool) -> None:
    check_backward(NarrowBackward(D=d, E=e, fused=fused), layout=layout, target=ON)


@runs_here
@pytest.mark.parametrize("rows", [16, 48, 64])
def test_counts_backward(rows: int) -> None:
    check_backward(NarrowBackward(rows=rows), [c for c in COUNTS if 0 not in c], target=ON)


@runs_here
@pytest.mark.parametrize("pattern", [signed, masked, patterns.window, patterns.dilated])
@pytest.mark.parametrize("size", [(1, 1, 20, 20), (1, 67, 5, 80), (70, 3, 5, 80), (67, 66, 80, 5), (130, 65, 64, 64)])
def test_functions(pattern: Callable[..., torch.Tensor], size: tuple[int, int, int, int]) -> None:
    inputs = inputs_of(*size)
    compiled = attnc.compile(pattern, fallback="error", options=OPTIONS)
    assert_matches(pattern, compiled(*inputs), inputs)
    assert_gradients_match(pattern, gradients(compiled, inputs)[0], inputs)


@runs_here
@pytest.mark.parametrize("queries", [1, 33])
@pytest.mark.parametrize("stuff", [math.inf, -math.inf, math.nan])
def test_nothing_past_the_end_leaks(stuff: float, queries: int) -> None:
    """The partner of the last of an odd number of rows is zero, whatever lies in memory there."""
    inputs = [x[:, :, :-1] for x in inputs_of(queries + 1, 66, 32, 48)]
    for x in inputs:
        assert x._base is not None
        x._base[:, :, -1] = stuff
    compiled = attnc.compile(patterns.dense, fallback="error", options=OPTIONS)
    assert_matches(patterns.dense, compiled(*inputs), inputs)
    assert_gradients_match(patterns.dense, gradients(compiled, inputs)[0], inputs)


@pytest.mark.parametrize(
    ("case", "blocks"),
    [(Forward(dt="bf16"), 1), (NarrowForward(), 2), (NarrowBackward(D=64, E=64), 5), (KeyBackward(), 0)],
)
def test_what_multiplies_pairs(case: Forward | KeyBackward, blocks: int, tmp_path: Path) -> None:
    """Every product, where what is computed is rounded; those of two tensors, where not."""
    if target.host_machine() != "x86_64":
        pytest.skip("LLVM here makes no objects for x86-64")
    text = disassembly(get_backend("cpu").compile(parse_kernel(case.text), target=ON).payload, tmp_path)
    loops = [body for body in product_loops(text) if any("vdpbf16ps" in line for line in body)]
    assert all("vdpbf16ps" in line for body in loops for line in body if products([line]))
    assert len([body for body in loops if products(body) == 16]) == blocks


@pytest.mark.parametrize(("on", "count"), [(ON, 48), ("avx512-amx", 16)])
def test_few_rows_multiply_values_in_pairs_where_that_is_fast(on: str, count: int, tmp_path: Path) -> None:
    """4 by 4 in each of the loops over features of keys, over two values, and over the last one."""
    if target.host_machine() != "x86_64":
        pytest.skip("LLVM here makes no objects for x86-64")
    kernel = parse_kernel(NarrowForward(D=64, E=64, rows=4).text)
    text = disassembly(get_backend("cpu").compile(kernel, target=on).payload, tmp_path)
    assert text.count("vdpbf16ps") == count


@pytest.mark.parametrize("rows", [1, 4])
def test_few_rows_ask_for_keys_and_values(rows: int, tmp_path: Path) -> None:
    """Every line of both once: 4 of each row, of as many rows as a turn of a loop takes."""
    kernel = parse_kernel(NarrowForward(D=128, E=128, rows=rows).text)
    text = get_backend("cpu").compile(kernel, target="avx512-amx").stages["mlir"]
    keys, values = 16 // rows, 1
    assert text.count("llvm.intr.prefetch") == 4 * (keys + values)
