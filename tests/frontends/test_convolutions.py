"""Convolutions and other calls around attention whose sizes are known before they run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import attnc
from attnc.frontends.errors import DataDependentError

from ..numerics import assert_compiles, assert_matches, gradients


def attend(q, k, v):
    return (q @ k.mT / 2).softmax(-1) @ v


def causal_taps(x, weight):
    x = F.conv1d(F.pad(x.mT, (weight.shape[-1] - 1, 0)), weight, groups=weight.shape[0]).mT
    return attend(x, x, x)


def strided(x, weight, bias):
    """Keys of an image, thinned out."""
    few = F.conv2d(x, weight, bias, stride=2, padding=(1, 0)).flatten(2).mT
    return attend(x.flatten(2).mT, few, few)


def dilated(x, weight):
    same = F.conv2d(x, weight, padding="same", dilation=2).flatten(2).mT
    valid = F.conv2d(x, weight, padding="valid", dilation=2).flatten(2).mT
    return attend(same, valid, valid)


CASES = {
    causal_taps: [((2, 19, 6), (6, 1, 3)), ((1, 1, 6), (6, 1, 3)), ((2, 34, 6), (6, 1, 4))],
    strided: [((2, 6, 7, 9), (6, 6, 3, 2), (6,)), ((1, 6, 8, 8), (6, 6, 3, 2), (6,))],
    dilated: [((2, 6, 7, 9), (6, 6, 3, 2))],
}


@pytest.mark.parametrize("fn", CASES, ids=lambda f: f.__name__)
def test_numbers(fn):
    compiled = attnc.compile(fn, backend="cpu", fallback="silent")  # PyTorch convolves
    for shapes in CASES[fn]:
        torch.manual_seed(0)
        args = [torch.randn(s) / 2 for s in shapes]
        assert compiled.lower(*args).explain().kernels
        assert_matches(fn, compiled(*args), args)
        (found,) = gradients(compiled, args)
        for value, expected in zip(found, gradients(fn, args)[0], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_documents_by_their_lengths():
    def packed(q, k, v, lengths):
        document = torch.repeat_interleave(torch.arange(lengths.shape[0]), lengths, output_size=q.shape[0])
        scores = (q @ k.mT).masked_fill(document[:, None] != document[None, :], float("-inf"))
        return scores.softmax(-1) @ v

    for lengths in ([5, 1, 9], [30, 37]):
        assert_compiles(packed, [*torch.randn(3, sum(lengths), 6), torch.tensor(lengths)])


def test_counts_without_their_sum():
    def packed(q, lengths):
        return torch.repeat_interleave(torch.arange(lengths.shape[0]), lengths)

    with pytest.raises(DataDependentError, match="give output_size"):
        attnc.compile(packed, backend="cpu").lower(torch.randn(6, 2), torch.tensor([2, 4]))
