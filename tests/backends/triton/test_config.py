"""Launch parameters that follow from the form of a kernel."""

from dataclasses import replace

import pytest
import torch

import attnc
from attnc.backends.triton.config import candidates, choose
from attnc.backends.triton.targets import TARGETS
from attnc.ir.tile import kernels_of

from ...numerics import assert_matches
from .helpers import Case


def test_descriptors_are_no_option_where_none_would_be_made():
    for dtype, offered in (("f32", {True}), ("bf16", {True, False})):
        found = candidates(replace(Case(), dtype=dtype).kernel(), TARGETS["sm_90"])
        assert {c.descriptors for c in found} == offered


@pytest.mark.parametrize("tokens, warps", [(8, 1), (16, 1), (20, 2), (49, 4)])
def test_a_small_group_has_a_warp_for_16_rows(tokens, warps):
    def windows(q, k, v):
        q, k, v = (x.unflatten(2, (-1, tokens)) for x in (q, k, v))
        return ((q @ k.mT).softmax(-1) @ v).flatten(2, 3)

    torch.manual_seed(0)
    inputs = list(torch.randn(3, 1, 2, tokens * 3, 16).bfloat16())
    compiled = attnc.compile(windows, backend="triton", fallback="error")
    assert_matches(windows, compiled(*inputs), inputs)
    lowered = compiled.lower(*inputs, target="sm_90")
    size = max(16, 1 << (tokens - 1).bit_length())
    forward, _, query, key = (*kernels(lowered), *kernels(lowered.backward()))
    assert [k.rows.data.size for k in (forward, query, key)] == [size] * 3
    assert [choose(k, TARGETS["sm_90"]).num_warps for k in (forward, query, key)] == [warps] * 3


def kernels(lowered):
    return kernels_of(lowered.module("tile")).values()


@pytest.mark.parametrize("width, rows", [(64, 32), (128, 16)])
def test_gradients_in_float32_have_eight_warps_for_their_operands(width, rows):
    def dense(q, k, v):
        return (q @ k.mT).softmax(-1) @ v

    lowered = attnc.compile(dense, backend="triton").lower(*torch.randn(3, 1, 1, 64, width), target="sm_90").backward()
    assert [choose(k, TARGETS["sm_90"]).num_warps for k in kernels(lowered)] == [4, 8, 8]  # the first has no products
    assert [k.rows.data.size for k in kernels(lowered)] == [rows] * 3


def test_float32_on_amd_runs_on_matrix_units_and_has_four_waves():
    kernel = Case(dtype="f32").kernel()
    assert [choose(kernel, TARGETS[t]).num_warps for t in ("gfx942", "sm_90")] == [4, 8]
