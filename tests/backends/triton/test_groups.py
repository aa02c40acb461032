"""Small groups: several of them in a tile, kept apart by a mask."""

import pytest
import torch

import attnc
from attnc.ir.attn import func_of
from attnc.ir.tile import kernels_of

from ...numerics import assert_gradients_match, assert_matches, gradients


def groups(tokens):
    def within(q, k, v, bias):
        q, k, v = (x.unflatten(2, (-1, tokens)) for x in (q, k, v))
        return ((q @ k.mT / 4 + bias[:, None]).softmax(-1) @ v).flatten(2, 3)

    return within


@pytest.mark.parametrize(
    ("tokens", "count", "rows", "dim"),
    [(8, 4, 16, 2), (5, 3, 15, 2), (8, 3, 16, 1), (8, 1, 16, 1), (9, 4, 9, None)],
    ids=["two in a tile", "three in a tile", "heads where groups are odd", "heads alone", "one in a tile"],
)
def test_numbers(tokens, count, rows, dim):
    torch.manual_seed(0)
    fn, inputs = groups(tokens), [*torch.randn(3, 1, 2, tokens * count, 16), torch.randn(2, tokens, tokens)]
    compiled = attnc.compile(fn, backend="triton", fallback="error")
    assert_matches(fn, compiled(*inputs), inputs)
    lowered = compiled.lower(*inputs)
    (found,) = gradients(compiled, inputs)
    assert_gradients_match(fn, found, inputs)
    (forward,) = kernels_of(lowered.module("tile")).values()
    assert forward.rows.data.bound.value == rows
    extents = ["B", "H", f"N // {tokens}"]
    if dim is not None:
        extents[dim] = f"N // {rows}" if dim == 2 else "H // 2"
    assert [str(d.extent) for d in forward.grid.data[:3]] == extents


def test_another_number_of_groups_has_a_plan_of_its_own():
    fn = groups(8)
    compiled = attnc.compile(fn, backend="triton", fallback="error")
    for count in (4, 3, 6):
        inputs = [*torch.randn(3, 1, 1, 8 * count, 16), torch.randn(1, 8, 8)]
        assert_matches(fn, compiled(*inputs), inputs)
        (found,) = gradients(compiled, inputs)
        assert_gradients_match(fn, found, inputs)
        lowered = compiled.lower(*inputs)
        forward, backward = (func_of(x.module("tile")) for x in (lowered, lowered.backward()))
        assert set(backward.facts) <= set(forward.facts)
