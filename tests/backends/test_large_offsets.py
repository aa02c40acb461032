"""Addresses and positions beyond 32 bits: views whose elements lie gigabytes apart, and products of positions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import attnc
from attnc.backends.triton.facts import is_wide
from attnc.ir.expr import parse

from ..numerics import assert_gradients_match, assert_matches, gradients

FAR = (1 << 31) + 12_345  # elements


@pytest.fixture
def spread(tmp_path: Path):
    """Copies a tensor into a file with holes, so that its last axis but ``axis`` has the largest stride."""
    count = 0

    def place(x: torch.Tensor, axis: int) -> torch.Tensor:
        nonlocal count
        count += 1
        step = FAR // max(x.shape[axis] - 1, 1)
        strides = [1] * x.dim()
        inner = 1
        for n in reversed(range(x.dim())):
            if n != axis:
                strides[n], inner = inner, inner * x.shape[n]
        strides[axis] = step
        size = sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True)) + 1
        storage = torch.from_file(str(tmp_path / str(count)), shared=True, size=size, dtype=x.dtype)
        return storage.as_strided(x.shape, strides).copy_(x)

    return place


def window(q, k, v, bias):
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    scores = q @ k.mT / q.shape[-1] ** 0.5 + bias
    return scores.masked_fill((i - j).abs() > 3, float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("axis", [1, 2, 3], ids=["heads", "tokens", "width"])
def test_views_whose_elements_lie_far_apart(backend: str, axis: int, spread) -> None:
    torch.manual_seed(0)
    near = [torch.randn(1, 2, 9, d) for d in (5, 5, 3)] + [torch.randn(1, 2, 9, 9)]
    far = [spread(x, axis) for x in near]
    assert max(s * (n - 1) for x in far for s, n in zip(x.stride(), x.shape, strict=True)) >= 1 << 31
    compiled = attnc.compile(window, backend=backend, fallback="error")
    assert_matches(window, compiled(*far), near)
    (found,) = gradients(compiled, far)
    assert_gradients_match(window, found, near)


def hashed(q, k, v):
    """Random blocks by a hash, as in BigBird without a table: products of positions pass 2 ** 31 at the third token."""
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    keep = ((i * 1_000_000_007 + j * 998_244_353) % 13 < 6) | (i == j)
    return (q @ k.mT).masked_fill(~keep, float("-inf")).softmax(-1) @ v


def squared(q, k, v):
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    return (q @ k.mT - ((i - j) * 40_000) ** 2 * 1e-11).softmax(-1) @ v


def doubled(q, k, v):
    """Windows as wide as an integer of 32 bits cannot count."""
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    keep = (i - j).abs() <= 2 ** (16 * torch.arange(q.shape[1]))[:, None, None]
    return (q @ k.mT).masked_fill(~keep, float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
@pytest.mark.parametrize("fn", [hashed, squared, doubled])
def test_numbers_beyond_32_bits_in_masks_and_scores(fn, backend: str) -> None:
    torch.manual_seed(0)
    args = [torch.randn(1, 3, 7, 4) if fn is doubled else torch.randn(1, 1, 67, 8) for _ in range(3)]
    compiled = attnc.compile(fn, backend=backend, fallback="error")
    assert_matches(fn, compiled(*args), args)
    (found,) = gradients(compiled, args)
    assert_gradients_match(fn, found, args)


def test_positions_have_32_bits_on_a_gpu() -> None:
    """64 cost more there, and are for what may not fit."""
    for text in ("(i * 1000000007 + j) % 13 < 6", "(i - j) * (i - j) < 9", "abs(i - j) <= pow(2, h)", "N * N // 2 < i"):
        assert is_wide(parse(text)), text
    for text in (
        "abs(i - j) <= 9",
        "j * 512 + r <= i * 512 + r",
        "(t * 64 + 63) // 8",
        "(i % 64) * (j % 64) < 9",
        "ids.int[i] == ids.int[j]",
    ):
        assert not is_wide(parse(text)), text


def test_a_window_over_a_million_tokens() -> None:
    """The scores would be 2 ** 40 numbers; some rows are compared, the ends among them."""
    n, reach = 1 << 20, 2
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, n, 4) for _ in range(3))

    def narrow(q, k, v):
        i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
        return (q @ k.mT).masked_fill((i - j).abs() > reach, float("-inf")).softmax(-1) @ v

    out = attnc.compile(narrow, backend="cpu", fallback="error")(q, k, v)
    for start in (0, 70_000, n // 2 - 3, n - 40):
        own = slice(max(start - reach, 0), start + 40 + reach)
        part = narrow(*(x[:, :, own] for x in (q, k, v)))
        first, last = start - own.start, min(start + 40, n)
        torch.testing.assert_close(out[:, :, start:last][:, :, reach:-reach],
                                   part[:, :, first : first + last - start][:, :, reach:-reach])  # fmt: skip
