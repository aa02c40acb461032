"""Conversions to types narrower than any argument: their rounding is part of the function."""

from __future__ import annotations

import pytest
import torch

import attnc

Tensor = torch.Tensor


def keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ (k * 3).bfloat16().to(q.dtype).mT).softmax(-1) @ v


def scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).half().type_as(q).softmax(-1) @ v


def weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1).to(torch.bfloat16).to(v.dtype) @ v


def qkv(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    made = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, 21, 8, generator=made).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("fn", [keys, scores, weights])
@pytest.mark.filterwarnings("ignore::attnc.FallbackWarning")
def test_what_they_round_stays_rounded(fn) -> None:
    compiled = attnc.compile(fn, backend="cpu")
    torch.testing.assert_close(compiled(*qkv()), fn(*qkv()), rtol=1e-5, atol=1e-6)
    assert compiled.lower(*qkv()).explain().fused == (fn is keys)


@pytest.mark.parametrize("fn", [scores, weights])
def test_rounded_pairs_are_loud(fn) -> None:
    with pytest.raises(attnc.FallbackError, match="round_to"):
        attnc.compile(fn, backend="cpu", fallback="error")(*qkv())


def test_types_of_the_arguments_round_nothing_new() -> None:
    for fn in (keys, weights):
        attnc.compile(fn, backend="cpu", fallback="error")(*qkv(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        attnc.compile(weights, backend="cpu", fallback="error")(*qkv())
