"""Neighbourhoods on an image: tiles of patches, and boxes of keys."""

import pytest
import torch

import attnc
from attnc.compiler.analysis.live_area import computed_pairs, live_pairs
from attnc.compiler.coverage import coverage
from attnc.compiler.passes.common import attends
from attnc.ir.attn import func_of
from attnc.ir.tile import kernels_of

from ...numerics import assert_gradients_match, assert_matches, gradients


def neighbourhood(width, reach, causal=False):
    def near(q, k, v):
        i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
        live = ((i // width - j // width).abs() <= reach) & ((i % width - j % width).abs() <= reach)
        live = live & (j <= i) if causal else live
        return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~live, float("-inf")).softmax(-1) @ v

    return near


def volume(high, width, causal=False):
    """Tokens of the frames before and after, in squares of 3 x 3; where causal, of the frame before alone."""

    def near(q, k, v):
        i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
        (t, y, x), (tk, yk, xk) = ((n // (high * width), n // width % high, n % width) for n in (i, j))
        live = ((t - tk).abs() <= 1) & ((y - yk).abs() <= 1) & ((x - xk).abs() <= 1)
        live = live & (tk <= t) if causal else live
        return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~live, float("-inf")).softmax(-1) @ v

    return near


def tensors(tokens, width=16, dtype=torch.float32):
    torch.manual_seed(0)
    return list(torch.randn(3, 1, 1, tokens, width).to(dtype))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("width, lines, reach", [(64, 5, 3), (48, 19, 2), (24, 9, 1)])
def test_numbers(width, lines, reach, causal):
    fn, inputs = neighbourhood(width, reach, causal), tensors(width * lines)
    compiled = attnc.compile(fn, backend="triton", fallback="error")
    assert "x <" in compiled.lower(*inputs).ir("tile") or (causal and reach == 1)  # not worth it
    assert_matches(fn, compiled(*inputs), inputs)


@pytest.mark.parametrize("lines", [(5, 5), (5, 3)])
def test_gradients(lines):
    fn, (q, k, v) = neighbourhood(24, 1), tensors(24 * 5)
    inputs = q[:, :1, : 24 * lines[0]], k[:, :1, : 24 * lines[1]], v[:, :1, : 24 * lines[1]]
    compiled = attnc.compile(fn, backend="triton", fallback="error")
    grids = [k.grid.data for k in kernels_of(compiled.lower(*inputs).backward().module("tile")).values()]
    assert [any(d.name == "x" for d in grid) for grid in grids] == [False, True, True]  # delta, queries, keys
    (found,) = gradients(compiled, inputs)
    assert_gradients_match(fn, found, inputs)


def test_windows_that_borders_push_inwards():
    def pushed(q, k, v):
        i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
        live = True
        for at, key, size in ((i // 24, j // 24, q.shape[-2] // 24), (i % 24, j % 24, 24)):
            start = (at - 1).clamp(0, size - 3)
            live = live & (key >= start) & (key < start + 3)
        return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~live, float("-inf")).softmax(-1) @ v

    inputs = tensors(24 * 9)
    compiled = attnc.compile(pushed, backend="triton", fallback="error")
    assert "x <" in compiled.lower(*inputs).ir("tile")
    assert_matches(pushed, compiled(*inputs), inputs)


@pytest.mark.parametrize("causal", [False, True])
def test_patches_of_a_video(causal):
    fn, inputs = volume(8, 16, causal), tensors(3 * 8 * 16)
    compiled = attnc.compile(fn, backend="triton", fallback="error")
    lowered = compiled.lower(*inputs)
    assert "z <" in lowered.ir("tile")
    assert_matches(fn, compiled(*inputs), inputs)
    grids = [k.grid.data for k in kernels_of(lowered.backward().module("tile")).values()]
    assert [[d.name for d in grid if d.name in "zyx"] for grid in grids[1:]] == [["z", "y", "x"]] * 2
    (found,) = gradients(compiled, inputs)
    assert_gradients_match(fn, found, inputs)


def test_gradients_rely_on_no_more_than_the_forward():
    fn, inputs = neighbourhood(24, 1), tensors(24 * 5)
    compiled = attnc.compile(fn, backend="triton", fallback="error")
    lowered = compiled.lower(*inputs)
    forward, backward = (func_of(x.module("tile")) for x in (lowered, lowered.backward()))
    assert set(backward.facts) <= set(forward.facts)


def test_lines_that_are_not_whole_keep_their_order():
    fn, inputs = neighbourhood(48, 2), tensors(48 * 5 + 7)
    compiled = attnc.compile(fn, backend="triton", fallback="error")
    assert "x <" not in compiled.lower(*inputs).ir("tile")
    assert_matches(fn, compiled(*inputs), inputs)


def test_a_quarter_of_what_is_computed_is_live():
    fn, tokens = neighbourhood(128, 6), 128 * 128
    lowered = attnc.compile(fn, backend="triton").lower(*tensors(tokens, 64, torch.bfloat16), target="sm_90")
    sizes = {**lowered.hints, "N": tokens, "N_k": tokens}
    shares = []
    for stage in ("simplify-masks", "image-patches"):
        ((attend, facts),) = attends(lowered.after(stage))
        (source,) = attend.source_list
        if stage == "simplify-masks":
            live = live_pairs(attend.domain, source, sizes, facts=facts).count
        (computed,) = computed_pairs(attend.domain, source, sizes, rows=128, padded=[(128, 128)], facts=facts)
        shares.append(live / computed)
    assert shares[0] < 0.1
    assert shares[1] > 0.25
    for kernel in kernels_of(lowered.backward().module("tile")).values():
        if pairs := coverage(kernel, sizes).computed_pairs:
            assert live / pairs > 0.25
