"""What cannot be fused stays eager, keeps its numbers, and says why on the user's line."""

from __future__ import annotations

import pytest
import torch

from attnc.frontends.bind import Binder
from attnc.frontends.capture import Finder
from attnc.frontends.raising import raise_graph
from attnc.frontends.trace import trace
from attnc.ir.attn import AttendOp
from attnc.ir.interpret import interpret

from .raising_spellings import H, N, qkv, tensors


def relu_weights(q, k, v):
    return torch.relu(q @ k.mT) @ v


def two_products(q, k, v):
    return (q @ k.mT + v @ k.mT[..., :8, :].repeat(1, 1, 2, 1)[..., :10, :]).softmax(-1) @ v


def talking_heads(q, k, v, mix):
    s = torch.einsum("gh,bhij->bgij", mix, q @ k.mT)
    return s.softmax(-1) @ v


def masked_after(q, k, v):
    i = torch.arange(q.shape[-2])
    p = (q @ k.mT).softmax(-1).masked_fill(i[None, :] > i[:, None], 0.0)
    return p @ v


def wrong_normaliser(q, k, v):
    e = (q @ k.mT).exp()
    return e @ v / e.sum(-1, keepdim=True) ** 2


def weighted(q, k, v, gate):
    return ((q @ k.mT).softmax(-1) * gate) @ v


def renormalised_with_epsilon(q, k, v):
    i = torch.arange(q.shape[-2])
    p = (q @ k.mT).softmax(-1) * (i[:, None] >= i[None, :])
    return p / (p.sum(-1, keepdim=True) + 1e-6) @ v


def two_softmaxes(q, k, v):
    a, b = (q @ k.mT).softmax(-1), (q @ k.flip(2).mT * 2).softmax(-1)
    return (a @ v + b @ v) / (a.sum(-1, keepdim=True) + b.sum(-1, keepdim=True))


CASES = {
    relu_weights: (qkv(), "not normalised by a softmax"),
    two_products: (qkv(), "2 inner products"),
    talking_heads: (qkv() + tensors((H, H)), "not between a query and a key"),
    masked_after: (qkv(), "masked after the softmax"),
    wrong_normaliser: (qkv(), "not the sum of the weights"),
    weighted: (qkv() + tensors((H, N, N)), "depends on the query and the key"),
}


@pytest.mark.parametrize("fn", CASES, ids=lambda f: f.__name__)
def test_reason(fn) -> None:
    args, reason = CASES[fn]
    result = raise_graph(trace(fn, Binder(fn), tuple(args), Finder(fn, {})))
    assert not any(isinstance(op, AttendOp) for op in result.module.walk())
    notes = [n for n in result.notes if n.quadratic]
    assert any(reason in n.reason for n in notes), [n.reason for n in notes]
    assert all("test_raising_eager.py" in n.location.file for n in notes)
    (out,) = interpret(result.module, list(args))
    torch.testing.assert_close(out, fn(*args))


@pytest.mark.parametrize("fn", [renormalised_with_epsilon, two_softmaxes], ids=lambda f: f.__name__)
def test_softmaxes_that_are_normalised_again_keep_their_numbers(fn) -> None:
    result = raise_graph(trace(fn, Binder(fn), tuple(qkv()), Finder(fn, {})))
    assert any(n.quadratic for n in result.notes)
    (out,) = interpret(result.module, qkv())
    torch.testing.assert_close(out, fn(*qkv()))
