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


def exponentials(q, k, v):
    return torch.exp(q @ k.mT) @ v


def two_products(q, k, v):
    return (q @ k.mT + torch.tanh(v @ v.mT)).softmax(-1) @ v


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
    exponentials: (qkv(), "exponentials that nothing normalises"),
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


def gathered(q, k):
    i = torch.arange(q.shape[-2])
    return k[:, :, i[:, None] * torch.arange(3)[None, :] % q.shape[-2]]


def narrow_gather(q, k, v):
    p = (q[:, :, :, None] * gathered(q, k)).sum(-1).softmax(-1)
    return (p[..., None] * gathered(q, v)).sum(-2)


def written_out(q, k, v):
    e = (q[:, :, :, None] * gathered(q, k)).sum(-1).exp()
    return (e[..., None] * gathered(q, v)).sum(-2) / e.sum(-1, keepdim=True)


def sorted_powers(q, k, v):
    e = 2.0 ** (q[..., :1] * k[:, :, None, 0, :3]).transpose(-1, -2).mul(v.mT[..., :3, :]).sum(-2)
    return (e / e.sum(-1, keepdim=True)).sort(-1).values


def features_softmax(q, k, v):
    return q.log_softmax(-1)


def of_features(q, k, v):
    return q.logsumexp(-1)


def dropped(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=0.5)


LOUD = {
    narrow_gather: ("softmax", "the keys are gathered at"),
    written_out: ("exp", "the keys are gathered at"),
    sorted_powers: ("pow", "not part of an attention"),
    features_softmax: ("log_softmax", "not part of a fused attention"),
    of_features: ("logsumexp", "not part of an attention"),
    dropped: ("scaled_dot_product_attention", ""),
}


@pytest.mark.parametrize("fn", LOUD, ids=lambda f: f.__name__)
def test_an_eager_softmax_is_never_quiet(fn) -> None:
    result = raise_graph(trace(fn, Binder(fn), tuple(qkv()), Finder(fn, {})))
    (note,) = [n for n in result.notes if n.op == LOUD[fn][0]]
    assert note.quadratic
    assert LOUD[fn][1] in note.reason
    assert note.reason
    assert "test_raising_eager.py" in note.location.file


def test_keys_read_backwards_from_the_query() -> None:
    def shifted(q, k, v):
        at = torch.arange(q.shape[-2])[:, None] - torch.arange(4)[None]
        keys, values = k[:, :, at.clamp(min=0)], v[:, :, at.clamp(min=0)]
        s = (q[:, :, :, None] * keys).sum(-1).masked_fill(at < 0, float("-inf"))
        return (s.softmax(-1)[..., None] * values).sum(-2)

    result = raise_graph(trace(shifted, Binder(shifted), tuple(qkv()), Finder(shifted, {})))
    assert any(isinstance(op, AttendOp) for op in result.module.walk())
    torch.testing.assert_close(interpret(result.module, qkv())[0], shifted(*qkv()))


def test_sums_of_fused_attentions_are_not_pairs() -> None:
    def axial(x):
        rows = (x @ x.mT).softmax(-1) @ x
        y = x.transpose(1, 2)
        return rows + ((y @ y.mT).softmax(-1) @ y).transpose(1, 2)

    args = tensors((2, 6, 5, 8))
    result = raise_graph(trace(axial, Binder(axial), tuple(args), Finder(axial, {})))
    assert not [n for n in result.notes if n.quadratic]
    torch.testing.assert_close(interpret(result.module, list(args))[0], axial(*args))


def test_a_row_at_a_finite_fill_keeps_its_digits() -> None:
    def masked(q, k, v, length):
        keep = torch.arange(k.shape[-2]) < length[:, None, None, None]
        return (q @ k.mT).masked_fill(~keep, -1e9).softmax(-1) @ v

    args = [x.double() for x in qkv()]
    args.append(torch.zeros(args[0].shape[0], dtype=torch.int64))
    result = raise_graph(trace(masked, Binder(masked), tuple(args), Finder(masked, {})))
    assert any(isinstance(op, AttendOp) for op in result.module.walk())
    torch.testing.assert_close(interpret(result.module, args)[0], masked(*args), rtol=1e-13, atol=1e-14)
