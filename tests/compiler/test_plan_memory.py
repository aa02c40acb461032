"""Writes to a part of a tensor that the plan made itself are made in place; anybody else's tensor is copied."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import attnc
from attnc.compiler.plan_memory import Memory


def boxes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Results of attention in two places of a larger tensor."""
    out = (q @ k.mT).softmax(-1) @ v
    result = torch.zeros(4, *out.shape)
    result[0] = out
    result[2, :, :, 1:] = out[:, :, 1:]
    return result


def twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The tensor is read between two writes."""
    out = (q @ k.mT).softmax(-1) @ v
    result = torch.zeros(2, *out.shape)
    result[0] = out
    between = result * 3
    result[1] = out
    return between + result


@pytest.mark.parametrize("function", [boxes, twice])
def test_it_is_what_pytorch_computes(function: Callable[..., object]) -> None:
    inputs = torch.randn(3, 2, 3, 5, 4)
    before = inputs.clone()
    compiled = attnc.compile(function, fallback="silent")
    for _ in range(2):
        torch.testing.assert_close(compiled(*inputs), function(*inputs))
    assert torch.equal(inputs, before)


def test_a_whole_that_nobody_reads_again_is_not_copied() -> None:
    inputs = torch.randn(3, 2, 3, 5, 4)
    compiled = attnc.compile(boxes, fallback="silent")
    compiled(*inputs)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        compiled(*inputs)
    calls = [e.name for e in found.events()]
    assert "aten::select_scatter" not in calls


def test_what_shares_memory_with_a_live_value_is_not_written() -> None:
    memory = Memory()
    memory.made(["x"], [], fresh=True)
    memory.made(["view", "other"], ["x"], fresh=False)
    memory.made(["part"], ["argument"], fresh=False)
    for live, free in ((set(), True), ({"x"}, False), ({"view"}, False), ({"part", "argument"}, True)):
        assert memory.free("x", {"part"}, live.__contains__) == free
    assert not memory.free("x", {"view"}, lambda name: False)  # it would read what it writes
    assert not memory.free("argument", {"part"}, lambda name: False)
    assert not memory.free("part", {"x"}, lambda name: False)
    memory.made(["y"], ["x", "part"], fresh=True)  # written in place
    assert memory.free("y", {"part"}, lambda name: False)


def parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Parts of parts, elementwise work on values that are read again and on those that are not."""
    out = (q @ k.mT).softmax(-1) @ v
    result = torch.zeros(3, 6, *out.shape)
    result[1, 2:4, :, 1:] = out[:, 1:]
    whole = result[2]
    result[2, :, 1:] = whole[:, :1] + 1
    shifted = result * 2 + 1
    again = torch.exp(shifted - shifted.mean(0))
    return again / again.sum(-1, keepdim=True) + shifted


def test_parts_of_parts() -> None:
    inputs = torch.randn(3, 2, 3, 5, 4)
    compiled = attnc.compile(parts, fallback="silent")
    for _ in range(2):
        torch.testing.assert_close(compiled(*inputs), parts(*inputs))


def test_a_part_of_a_part_is_not_copied_and_elementwise_work_overwrites() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = (q @ k.mT).softmax(-1) @ v
        result = torch.zeros(3, 6, *out.shape)
        result[1, 2:4, :, 1:] = out[:, 1:]
        return torch.exp(result * 2 + 1)

    inputs = torch.randn(3, 2, 3, 5, 4)
    compiled = attnc.compile(function, fallback="silent")
    torch.testing.assert_close(compiled(*inputs), function(*inputs))
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        compiled(*inputs)
    calls = [e.name for e in found.events() if "scatter" in e.name or e.name in ("aten::mul", "aten::add", "aten::exp")]
    assert calls == []
