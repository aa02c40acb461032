"""Weights that their own sum divides are a softmax, also where they are no plain exponential."""

from __future__ import annotations

import pytest
import torch

import attnc

from ..numerics import assert_compiles, assert_matches

B, H, D = 2, 3, 6


def causal(x):
    return torch.ones(x.shape[-2:], dtype=torch.bool).tril()


def polynomial(q, k, v):
    t = q @ k.mT / 2
    w = (1 + t + t**2 / 2).masked_fill(~causal(t), 0.0)
    return (w / w.sum(-1, keepdim=True)) @ v


def first_key(q, k, v, gamma):
    p = (q @ k.mT).masked_fill(~causal(q @ k.mT), float("-inf")).softmax(-1)
    tuned = p.clone()
    tuned[..., 0] = p[..., 0] * gamma[:, None]
    return tuned / tuned.sum(-1, keepdim=True) @ v


def range_of_keys(q, k, v, gamma):
    p = (q @ k.mT).softmax(-1)
    tuned = p.clone()
    tuned[..., 2:5] = p[..., 2:5] * gamma[:, None, None]
    return tuned / tuned.sum(-1, keepdim=True) @ v


def every_key(q, k, v, gamma):
    """Weights of keys, positive, of the function's own making."""
    w = (q @ k.mT).exp() * torch.nn.functional.softplus(k.sum(-1))[:, :, None] * gamma[:, None, None]
    return w / w.sum(-1, keepdim=True) @ v


def inputs(fn, n, m):
    torch.manual_seed(0)
    q, k, v = torch.randn(B, H, n, D) / 2, torch.randn(B, H, m, D) / 2, torch.randn(B, H, m, 4)
    return [q, k, v] + ([0.5 + torch.rand(H)] if fn.__code__.co_argcount > 3 else [])


@pytest.mark.parametrize("size", [(7, 7), (65, 65), (131, 29)], ids=str)
@pytest.mark.parametrize("fn", [polynomial, first_key, range_of_keys, every_key])
def test_numbers(fn, size):
    args = inputs(fn, *size)
    assert_compiles(fn, args)


@pytest.mark.parametrize("fn", [polynomial, first_key])
def test_triton(fn):
    args = inputs(fn, 19, 19)
    assert_compiles(fn, args, "triton")


def test_a_factor_of_one_key_is_a_logarithm_taken_once():
    text = attnc.compile(first_key, backend="cpu").lower(*inputs(first_key, 9, 9)).ir("attn")
    assert "torch.log(x0)" in text
    assert "where(j == 0, logarithm[h], 0.0)" in text


def test_a_factor_of_zero_takes_the_key_away():
    args = inputs(first_key, 9, 9)
    args[-1][:] = 0.0
    args[0], args[1], args[2] = (
        x[..., 1:, :] if n == 0 else x for n, x in enumerate(args[:3])
    )  # row 0 sees key 0 only

    def offset(q, k, v, gamma):
        p = (q @ k.mT).softmax(-1)
        tuned = p.clone()
        tuned[..., 0] = p[..., 0] * gamma[:, None]
        return tuned / tuned.sum(-1, keepdim=True) @ v

    assert_matches(offset, attnc.compile(offset, backend="cpu", fallback="error")(*args), args)


def relu(q, k, v):
    w = torch.relu(q @ k.mT) ** 2
    return w / w.sum(-1, keepdim=True) @ v


def cubic(q, k, v):
    t = q @ k.mT
    w = 1 + t + t**2 / 2 + t * t * t / 6
    return w / w.sum(-1, keepdim=True) @ v


@pytest.mark.parametrize("fn", [relu, cubic])
def test_what_may_be_zero_or_negative_stays_eager(fn):
    args = inputs(fn, 8, 8)
    compiled = attnc.compile(fn, backend="cpu", fallback="silent")
    page = compiled.lower(*args).explain()
    assert not page.fused
    assert any(op.quadratic and op.reason for op in page.eager_ops)
    assert_matches(fn, compiled(*args), args)
