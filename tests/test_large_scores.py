"""Scores that nothing scales: a gradient has the weights of the output, not those of a rounded logarithm."""

from __future__ import annotations

import pytest
import torch

import attnc
from tests.numerics import assert_gradients_match, assert_matches, gradients

Tensor = torch.Tensor


def unscaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


def unscaled_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])
    return (q @ k.mT).masked_fill(j > i, -torch.inf).softmax(-1) @ v


def inputs(n: int, m: int, d: int, std: float, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys and values whose scores have this standard deviation; of 8 heads, for few rows are luck."""
    generator = torch.Generator().manual_seed(n)
    scale = std**0.5 / d**0.25
    shapes = ((n, scale), (m, scale), (m, 1.0))
    return [(torch.randn(1, 8, length, d, generator=generator) * s).to(dtype) for length, s in shapes]


CASES = [(1, 48, 5, 60), (7, 48, 64, 60), (16, 48, 80, 8), (65, 129, 5, 30)]


@pytest.mark.parametrize(("n", "m", "d", "std"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_a_cpu(n: int, m: int, d: int, std: float, dtype: torch.dtype) -> None:
    check(attnc.compile(unscaled, backend="cpu", fallback="error"), inputs(n, m, d, std, dtype))


@pytest.mark.parametrize(("n", "m", "d", "std"), [(1, 48, 5, 60), (33, 20, 16, 30)])
def test_as_triton(n: int, m: int, d: int, std: float) -> None:
    check(attnc.compile(unscaled, backend="triton", fallback="error"), inputs(n, m, d, std))


def test_masked() -> None:
    check(attnc.compile(unscaled_causal, backend="cpu", fallback="error"), inputs(17, 17, 64, 60))


def check(compiled: attnc.CompiledAttention, args: list[Tensor]) -> None:
    assert_matches(compiled.eager, compiled(*args), args)
    (found,) = gradients(compiled, args)
    assert_gradients_match(compiled.eager, found, args)
