"""Which operand of a product holds the weights, where both could; and which products are no attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ..numerics import assert_compiles


def gated_values(q, k, v, gate):
    """The values' gate is an exponential too."""
    return (q @ k.mT / 2).softmax(-1) @ (gate.exp() * v)


def linear(q, k, v, gate):
    """Softmaxes over features and over tokens: only one of them weighs what is summed."""
    return torch.softmax(q, -1) @ (torch.softmax(k, -2).mT @ v) * gate.mean()


def projected(q, k, v, w):
    """Heads are projected one by one, by weights without a batch."""
    out = torch.einsum("bhij,bhje->bhie", (q @ k.mT).softmax(-1), v)
    return torch.einsum("bhie,hec->bic", out, w)


def expanded(x, w_down, w_up):
    """Keys through a bottleneck: a product of products, but no scores."""
    k = torch.einsum("bnc,chd->bhnd", x @ w_down, w_up)
    return (k @ k.mT).softmax(-1) @ k


def two_attentions(q, k, v, w):
    return (F.scaled_dot_product_attention(q, k, v) + 0.5 * F.scaled_dot_product_attention(k, q, v)) @ w


def named_x(x, j, r):
    """Arguments whose sizes would be called like the matcher's variables."""
    return (x @ j.mT).softmax(-1) @ r


def angles(x, k, v):
    """A tensor divided by a size that is a quotient itself."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] * 100.0 ** (-torch.arange(half) / half)
    a, b = x.chunk(2, dim=-1)
    y = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)
    return (y @ k.mT).softmax(-1) @ v


def shaped(*shapes):
    torch.manual_seed(0)
    return [torch.randn(s) for s in shapes]


HEADS = (2, 3, 37, 6)
CASES = {
    gated_values: shaped(HEADS, HEADS, HEADS, (2, 1, 37, 1)),
    linear: shaped(HEADS, HEADS, HEADS, (3,)),
    projected: shaped(HEADS, HEADS, HEADS, (3, 6, 10)),
    expanded: shaped((2, 37, 12), (12, 5), (5, 3, 6)),
    two_attentions: shaped(HEADS, HEADS, HEADS, (6, 6)),
    angles: shaped(HEADS, HEADS, HEADS),
    named_x: shaped((4, 37, 6), (4, 41, 6), (4, 41, 7)),
}


@pytest.mark.parametrize("fn", CASES, ids=lambda f: f.__name__)
def test_fused(fn):
    args = CASES[fn]
    assert assert_compiles(fn, args).lower(*args).explain().fused
