"""Names of arguments: any that Python has, two of which may read alike once they are names of the IR."""

from __future__ import annotations

import torch

import attnc
from attnc.ir.text import parse_module, print_module

from ..numerics import assert_matches

ÜBER = torch.randn(9)


def test_names_beyond_ascii() -> None:
    def attention(q, k, v, größe, σ: float, λ2: float):
        nähe = q @ k.mT + größe[:, None] + ÜBER
        return (nähe * σ + λ2 * größe).softmax(-1) @ v

    args = [*(torch.randn(1, 2, 9, 4) for _ in range(3)), torch.randn(9), 0.5, 0.25]
    compiled = attnc.compile(attention, backend="cpu", fallback="error")
    assert_matches(attention, compiled(*args), args)
    lowered = compiled.lower(*args)
    for stage in ("attn", "tile"):
        text = lowered.ir(stage)
        assert text.isascii()
        assert print_module(parse_module(text)) == text


def test_numbers_whose_names_read_alike() -> None:
    def attention(q, k, v, at, at_low: float):
        distance = torch.arange(q.shape[-2])[:, None] - torch.arange(k.shape[-2])
        return (q @ k.mT * at["low"] - at_low * distance).softmax(-1) @ v

    args = [*(torch.randn(1, 2, 9, 4) for _ in range(3)), {"low": 0.5}, 0.25]
    compiled = attnc.compile(attention, backend="cpu", fallback="error")
    assert_matches(attention, compiled(*args), args)
