"""Sums over keys in spans: fewer roundings at the size of the whole than in one chain."""

from __future__ import annotations

import pytest
import torch

import attnc


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT).softmax(-1) @ v


def biased(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT + bias).softmax(-1) @ v


def _chain(terms: torch.Tensor) -> torch.Tensor:
    """Their sum along the rows, one after the other."""
    total = torch.zeros(terms.shape[1:])
    for term in terms:
        total = total + term
    return total


@pytest.mark.parametrize("keys", [120, 128, 1000])
def test_products_with_values(keys: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.zeros(1, 1, 64, 16), torch.randn(1, 1, keys, 16), torch.rand(1, 1, keys, 16)  # weights are alike
    exact = v.double().mean(-2, keepdim=True)
    chain = (_chain(v[0, 0]) / keys - exact).abs().mean()
    assert (attnc.compile(dense)(q, k, v) - exact).abs().mean() < 0.7 * chain


@pytest.mark.parametrize("keys", [120, 128, 1000])
def test_sums_of_probabilities(keys: int) -> None:
    torch.manual_seed(0)
    bias = torch.rand(64, keys)  # the scores, which nothing rounds
    q, k, v = torch.zeros(1, 1, 64, 16), torch.randn(1, 1, keys, 16), torch.zeros(1, 1, keys, 16)
    v[..., 0, :] = 1.0  # the output is one weight, and rounds as its denominator does
    weights = (bias.double() - bias.double().amax(-1, keepdim=True)).exp()
    exact = weights[:, 0] / weights.sum(-1)
    chain = (weights[:, 0] / _chain(weights.float().T) / exact - 1).abs().mean()
    error = (attnc.compile(biased)(q, k, v, bias)[0, 0, :, 0] / exact - 1).abs().mean()
    assert error < 0.7 * chain
