"""Pools, resizing and patches of images: their sizes are known while tracing, and their numbers are PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import attnc


def attended(tokens):
    """Attention among the positions of an image (B, C, H, W)."""
    x = tokens.flatten(2).transpose(1, 2)
    return (x @ x.mT).softmax(-1) @ x


def average(x):
    y = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    return attended(y + F.avg_pool2d(x, 3, 2, 1))


def rounded_up(x):
    """The last windows may hang over the edge."""
    return attended(F.avg_pool2d(x, 3, 2, ceil_mode=True) + F.max_pool2d(x, 3, 2, ceil_mode=True))


def maximum(x):
    return attended(F.max_pool2d(x, (3, 1), stride=1, padding=(1, 0)) + x)


def resized(x):
    small = F.avg_pool2d(x, 2)
    n = small.shape[2] * small.shape[3]
    back = F.interpolate(small, scale_factor=2, mode="nearest")
    return attended(x[:, :, : back.shape[2], : back.shape[3]] + back)[:, :n]


def patches(x):
    """The three by three pixels around each, of which there are as many."""
    b, c, height, width = x.shape
    around = F.unfold(x, 3, padding=1).reshape(b, c, 9, height * width).permute(0, 3, 2, 1)
    tokens = x.flatten(2).transpose(1, 2).unsqueeze(2)
    return ((tokens @ around.mT).softmax(-1) @ around).squeeze(2)


@pytest.mark.parametrize("fn", [average, rounded_up, maximum, resized, patches], ids=lambda f: f.__name__)
def test_sizes_and_numbers(fn):
    compiled = attnc.compile(fn, backend="cpu", fallback="error")
    for shape in ((2, 4, 6, 10), (1, 4, 8, 4)):
        # scores of ordinary size: where they are large, a weight made anew from its log-sum-exp has fewer digits
        report = attnc.validate(compiled, torch.randn(shape) / 4)
        assert report.ok, report


def test_what_is_not_known_is_refused():
    for call, words in (
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "compute that op outside"),
        (lambda x: F.interpolate(x, scale_factor=1.5), "give size="),
    ):
        with pytest.raises(attnc.AttncError, match=words):
            attnc.compile(lambda x, call=call: attended(call(x)), backend="cpu", fallback="error")(
                torch.randn(1, 2, 6, 6)
            )


def test_an_image_whose_pixels_attend_is_no_square():
    """Channels on the way through a convolution have rows and columns, as queries and keys have."""

    def branches(x, weight):
        y = F.gelu(F.conv2d(x, weight, padding=1))
        return torch.cat([y, attended(x).mT.reshape(x.shape)], 1)

    x, weight = torch.randn(2, 4, 5, 7), torch.randn(9, 4, 3, 3)
    page = attnc.compile(branches, backend="cpu", fallback="error").lower(x, weight).explain()
    assert page.fused
    assert not [op for op in page.eager_ops if op.quadratic]
