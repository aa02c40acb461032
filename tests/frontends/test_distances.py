"""A table read by a costly function of the distance is looked up once for each distance, by PyTorch."""

from __future__ import annotations

import math

import pytest
import torch

import attnc

from ..numerics import assert_compiles


def buckets(relative, bidirectional):
    bucket, count = torch.zeros_like(relative), 16
    if bidirectional:
        count //= 2
        bucket, distance = (relative > 0).long() * count, relative.abs()
    else:
        distance = -torch.minimum(relative, bucket)
    exact = count // 2
    large = exact + (torch.log(distance.clamp(min=1).float() / exact) / math.log(64 / exact) * (count - exact)).long()
    return bucket + torch.where(distance < exact, distance, large.clamp(max=count - 1))


def both_ways(q, k, v, table):
    i, j = torch.arange(q.shape[-2]), torch.arange(k.shape[-2])
    bias = table[buckets(j[None, :] - i[:, None], True)].permute(2, 0, 1)
    return (q @ k.mT + bias).softmax(-1) @ v


def backwards(q, k, v, table):
    i, j = torch.arange(q.shape[-2]), torch.arange(k.shape[-2])
    relative = j[None, :] - i[:, None]
    bias = torch.nn.functional.embedding(buckets(relative, False), table).permute(2, 0, 1)
    return (q @ k.mT + bias).masked_fill(relative > 0, float("-inf")).softmax(-1) @ v


def inputs(n, m):
    torch.manual_seed(0)
    return [torch.randn(2, 3, n, 5), torch.randn(2, 3, m, 5), torch.randn(2, 3, m, 7), torch.randn(16, 3)]


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("size", [(1, 1), (23, 23), (131, 37), (5, 90)], ids=str)
@pytest.mark.parametrize("fn", [both_ways, backwards])
def test_numbers(fn, size, backend):
    if backend == "triton" and max(size) > 90:
        return
    args = inputs(*size)
    assert_compiles(fn, args, backend)


def test_the_kernel_reads_one_number_for_each_distance():
    low = attnc.compile(both_ways, backend="cpu").lower(*inputs(8, 12))
    assert low.explain().fused
    assert "log(" not in low.ir("attn").split("attn.attend")[1]
    assert "by_distance[N + j - i - 1, h]" in low.ir("attn")


def test_a_function_of_both_positions_stays_in_the_kernel():
    def by_ratio(q, k, v, table):
        i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
        return (q @ k.mT + table[(15 * (i + 1) / (i + j + 1)).long()].permute(2, 0, 1)).softmax(-1) @ v

    args = inputs(9, 9)
    low = attnc.compile(by_ratio, backend="cpu", fallback="silent").lower(*args)
    assert "by_distance" not in low.ir("attn")
