"""Tokens of an image in a tensor with an axis for each of its own: no key far from a query is visited."""

from __future__ import annotations

import pytest
import torch

import attnc

from ..numerics import assert_gradients_match, assert_matches, gradients


def window(q, k, v, reach=2):
    """Heads last: (B, height, width, H, D)."""
    b, height, width, heads, d = q.shape
    t = torch.arange(height * width)
    y, x = t // width, t % width
    near = ((y[:, None] - y).abs() <= reach) & ((x[:, None] - x).abs() <= reach)
    q, k, v = (s.reshape(b, height * width, heads, d).transpose(1, 2) for s in (q, k, v))
    scores = (q @ k.mT).masked_fill(~near, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, height, width, heads, d)


def test_the_columns_are_known_and_far_tiles_skipped():
    q, k, v = torch.randn(3, 1, 40, 48, 2, 16)
    lowered = attnc.compile(window, backend="cpu", fallback="error").lower(q, k, v)
    page = lowered.explain()
    assert page.live_fraction < 0.02
    assert page.computed_fraction < 0.2
    assert 'key %k "b, j // q_2' not in lowered.ir("attn")  # the keys' sizes are the queries'
    assert "k_2" not in lowered.ir("tile")


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("shape", [(1, 7, 5, 2, 6), (2, 3, 11, 1, 5)], ids=str)
def test_numbers(shape, backend):
    inputs = tuple(torch.randn(3, *shape))
    compiled = attnc.compile(window, backend=backend, fallback="error")
    assert_matches(window, compiled(*inputs), inputs)
    (found,) = gradients(compiled, inputs)
    assert_gradients_match(window, found, inputs)


def test_sizes_whose_names_end_in_numbers():
    """A tensor of six dimensions names its sizes v_0 to v_5, which temporaries may be called as well."""

    def volume(q, k, v):
        shape, n = q.shape, q.shape[1] * q.shape[2] * q.shape[3]
        q, k, v = (x.reshape(shape[0], n, shape[4], -1).transpose(1, 2) for x in (q, k, v))
        return (q @ k.mT).softmax(-1) @ v

    q, k = torch.randn(1, 2, 3, 4, 2, 6), torch.randn(1, 4, 3, 2, 2, 6)
    v = torch.randn(1, 3, 2, 4, 2, 6)
    compiled = attnc.compile(volume, backend="cpu", fallback="error")
    assert_matches(volume, compiled(q, k, v), (q, k, v))
