"""The rivals of ``attnc bench`` compute what the user wrote."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import attnc
from attnc.compiler.rivals import NoRivalError, flex, sdpa, single

Tensor = torch.Tensor


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    return (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(j > i, -math.inf).softmax(-1) @ v


def odd_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    h = torch.arange(q.shape[1])[:, None, None]
    keep = ((i - j).abs() <= 5) | ((h % 2 == 1) & (j < 3))
    return (q @ k.mT * 0.3).masked_fill(~keep, -math.inf).softmax(-1) @ v


def alibi(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    return (q @ k.mT * 0.3 - slopes[:, None, None] * (i - j).abs()).softmax(-1) @ v


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    return (q @ k.mT * 0.3).softmax(-1) @ v


def inputs(fn: Callable[..., Tensor]) -> list[Tensor]:
    heads = 2 if fn is grouped else 4
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 4, 33, 16), (1, heads, 33, 16), (1, heads, 33, 16), *([(4,)] if fn is alibi else [])]
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("fn", [causal, odd_heads, alibi, grouped])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("rival", [sdpa, flex])
def test_same_attention(fn: Callable[..., Tensor], rival: Callable[..., Callable[..., Tensor]], monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)  # FlexAttention's meaning needs no compiler
    args = inputs(fn)
    found = single(attnc.compile(fn).lower(*args).module("attn"), args)
    torch.testing.assert_close(rival(found)(*found.tensors), fn(*args))


def test_two_attentions_have_no_rival() -> None:
    def twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return causal(causal(q, k, v), k, v)

    args = inputs(causal)
    with pytest.raises(NoRivalError, match="more than one attention"):
        single(attnc.compile(twice).lower(*args).module("attn"), args)
