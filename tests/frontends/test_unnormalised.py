"""Weights that nothing normalises: a function of inner products, summed as it is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import attnc

from ..numerics import assert_compiles, assert_matches, gradients


def rectified(q, k, v):
    return torch.relu(q @ k.mT) @ v


def scaled_squares(q, k, v):
    """With a causal mask of zeros."""
    n, m = q.shape[-2], k.shape[-2]
    w = (F.relu(q @ k.mT / q.shape[-1] ** 0.5) ** 2) / m
    return w.masked_fill(torch.ones(n, m, dtype=torch.bool).triu(1), 0.0) @ v


def decayed(q, k, v, gamma):
    """Retention: a product of scores and a power of the distance."""
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    decay = torch.where(i >= j, gamma[:, None, None] ** (i - j).clamp(min=0), 0.0)
    return (q @ k.mT * decay) @ v


def sigmoids(q, k, v, bias):
    return torch.sigmoid(q @ k.mT / 2 + bias[:, None, None]) @ v


def channels(q, k, v, temperature):
    """Operands transposed, of length 1."""
    q, k = F.normalize(q.mT, dim=-1), F.normalize(k.mT, dim=-1)
    return (F.relu(q @ k.mT * temperature[:, None, None]) @ v.mT).mT


def windowed(q, k, v):
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    return torch.where((i - j).abs() <= 4, q @ k.mT, 0.0) @ v


def receivers(q, k, v, gate):
    """Every key's message is shared out among the queries: a softmax over what is not summed."""
    scores = (k @ q.mT).masked_fill(torch.ones(k.shape[-2], q.shape[-2], dtype=torch.bool).tril(-3), float("-inf"))
    return (scores.softmax(-1) * gate[:, None, None]).mT @ v


def inputs(fn, n, m):
    torch.manual_seed(0)
    width = 5 if fn is not channels else 7
    q, k, v = (torch.randn(2, 3, x, w) / 2 for x, w in ((n, 5), (m, 5), (m, width)))
    return [q, k, v] + ([0.5 + torch.rand(3) / 2] if fn.__code__.co_argcount > 3 else [])


FUNCTIONS = [rectified, scaled_squares, decayed, sigmoids, channels, windowed, receivers]


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (67, 67), (129, 129)], ids=str)
@pytest.mark.parametrize("fn", FUNCTIONS)
def test_numbers(fn, size):
    args = inputs(fn, *size)
    if fn is channels:
        args[2] = args[2][..., :5]
    assert_compiles(fn, args)


@pytest.mark.parametrize("size", [(3, 71), (40, 9), (5, 0)], ids=str)
@pytest.mark.parametrize("fn", [rectified, scaled_squares, windowed])
def test_other_keys_than_queries(fn, size):
    args = inputs(fn, *size)
    assert_compiles(fn, args)


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("fn", [rectified, scaled_squares, windowed, receivers])
def test_other_backends(fn, backend):
    args = inputs(fn, 21, 21)
    assert_compiles(fn, args, backend)


@pytest.mark.parametrize("fn", [scaled_squares, windowed])
def test_every_pass_keeps_the_meaning(fn, monkeypatch):
    monkeypatch.setenv("ATTNC_VERIFY", "each")
    args = inputs(fn, 21, 21)
    compiled = attnc.compile(fn, backend="cpu", fallback="error")
    gradients(compiled, args)
    assert "normaliser none" in compiled.lower(*args).ir("attn")


def test_half_precision():
    args = [x.bfloat16() for x in inputs(rectified, 65, 65)]
    compiled = attnc.compile(rectified, backend="cpu", fallback="error")
    assert_matches(rectified, compiled(*args), args)


def test_the_kernel_keeps_only_the_output():
    text = attnc.compile(rectified, backend="cpu").lower(*inputs(rectified, 64, 64)).ir("tile")
    assert "exp2" not in text
    assert "tile.reduce" not in text


def test_a_softmax_over_receivers_is_a_sum_of_exponentials():
    text = attnc.compile(receivers, backend="cpu").lower(*inputs(receivers, 9, 9)).ir("attn")
    assert text.count("attn.attend") == 2
    assert "exp(dot - logsumexp[b, h, j])" in text


def exponentials(q, k, v):
    return (q @ k.mT).exp() @ v


def perceptron(x, w1, w2):
    return torch.relu(torch.einsum("bnc,hcd->bhnd", x, w1)) @ w2


def products(q, k, v):
    return q @ (k.mT @ v) / 3


def divided(q, k, v):
    """What divides a row is not the sum of its weights."""
    return torch.relu(q @ k.mT) @ v / (q @ k.sum(-2).unsqueeze(-1) + 9.0)


@pytest.mark.parametrize(
    ("fn", "shapes"),
    [
        (exponentials, [(2, 8, 4)] * 3),
        (perceptron, [(2, 8, 4), (3, 4, 6), (3, 6, 4)]),
        (products, [(2, 8, 4)] * 3),
    ],
    ids=["exponentials", "perceptron", "products"],
)
def test_what_is_no_such_attention(fn, shapes):
    args = [torch.randn(s) for s in shapes]
    compiled = attnc.compile(fn, backend="cpu", fallback="silent")
    assert not compiled.lower(*args).explain().kernels
    assert_matches(fn, compiled(*args), args)


def test_a_divisor_that_is_not_the_sum_stays():
    args = [torch.randn(2, 8, 4) for _ in range(3)]
    assert assert_compiles(divided, args, fallback="silent").lower(*args).explain().kernels


def test_very_wide_rows_take_few_at_a_time():
    """Attention between channels, whose features are the pixels."""

    def between_channels(q, k, v):
        return (q @ k.mT * 0.02).softmax(-1) @ v

    torch.manual_seed(0)
    args = [torch.randn(1, 2, 40, 3100) for _ in range(3)]
    compiled = attnc.compile(between_channels, backend="cpu", fallback="error")
    # sums of 3100 products, in order
    torch.testing.assert_close(compiled(*args), between_channels(*args), rtol=1e-4, atol=1e-4)
    for value, expected in zip(gradients(compiled, args)[0], gradients(between_channels, args)[0], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)
