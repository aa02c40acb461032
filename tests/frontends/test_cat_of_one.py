"""A score of one key in front of the others, in a log-sum-exp as in a softmax: key -1 is never read."""

from __future__ import annotations

import torch

import attnc

from ..numerics import assert_gradients_match, assert_matches, gradients


def with_self(q, k, v, own):
    scores = torch.cat([own[..., None], q @ k.mT], -1)
    return scores.softmax(-1)[..., 1:] @ v, torch.logsumexp(scores, -1)


def lse(q, k, own):
    return torch.logsumexp(torch.cat([own[..., None], q @ k.mT], -1), -1)


def test_the_first_key_is_a_source_of_its_own():
    q, k, v = torch.randn(3, 2, 2, 19, 6)
    own = torch.randn(2, 2, 19)
    text = attnc.compile(with_self, backend="cpu", fallback="error").lower(q, k, v, own).ir("attn")
    assert "j - 1" not in text
    assert text.count('source "j < 1"') == text.count('source "j < N') > 0
    compiled = attnc.compile(with_self, backend="cpu", fallback="error")
    for n, found in enumerate(compiled(q, k, v, own)):
        assert_matches(lambda *x, n=n: with_self(*x)[n], found, (q, k, v, own))
    compiled = attnc.compile(lse, backend="cpu", fallback="error")
    assert_matches(lse, compiled(q, k, own), (q, k, own))
    (found,) = gradients(compiled, (q, k, own))
    assert_gradients_match(lse, found, (q, k, own))
