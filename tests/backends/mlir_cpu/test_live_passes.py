"""Strips of a tile look at the keys, or queries, that some row of theirs sees: numbers, and what is left out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import attnc
from tests import patterns
from tests.numerics import assert_gradients_match, assert_matches, cotangents
from tests.patterns import positions

MASKS = (
    patterns.window,
    patterns.dilated,
    patterns.causal_bottom_right,
    patterns.global_and_window,
    patterns.block_or_strided,
    patterns.window_2d,
    patterns.empty_rows,
)
SIZES = ((1, 1, 5, 40), (63, 65, 64, 64), (300, 300, 16, 80), (131, 290, 40, 5), (33, 200, 80, 16))


def near(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    i, j = positions(q, k)
    return (q @ k.mT * 0.125).masked_fill((i - j).abs() > 12, float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize("target", [None, "cpu-avx2"])
@pytest.mark.parametrize("pattern", MASKS)
def test_strips_are_right_at_any_size(pattern: Callable[..., torch.Tensor], target: str | None) -> None:
    compiled = attnc.compile(pattern, options={"target": target} if target else {})
    for n, m, width, value_width in SIZES:
        if pattern is patterns.window_2d:
            n = m = max(n, m) // 12 * 12 or 12
        torch.manual_seed(n * 1000 + m)
        inputs = [torch.randn(1, 2, *s) for s in ((n, width), (m, width), (m, value_width))]
        inputs[0] *= width**-0.5  # not every mask's function scales: scores of 30 lose digits in any order
        assert_matches(pattern, compiled(*inputs), inputs)
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = compiled(*leaves)
        assert_gradients_match(pattern, torch.autograd.grad(out, leaves, cotangents(out, 1)[0]), inputs)


def test_dead_pieces_of_a_tile_are_not_computed() -> None:
    """A value of infinity would turn a probability of 0 into NaN."""
    q, k, v = (torch.randn(1, 1, 256, 64) for _ in range(3))
    v[0, 0, 0] = float("inf")
    compiled = attnc.compile(near, options=(low := {"choice": "rows=32,keys=192"}))
    out = compiled(q, k, v)
    assert out[0, 0, :13].isinf().all()
    assert out[0, 0, 16:].isfinite().all()  # rows of the same tile, none of which sees the first key
    text = attnc.compile(near, options=low | {"target": "cpu-avx512"}).lower(q, k, v).ir("tile")
    assert 'rows "i, t * 32, 32, N"' in text
    assert "strip = #builtin.int<16>" in text
