"""A function in which nothing is fused: PyTorch differentiates it as it is written, and runs nothing twice."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

import attnc


@attnc.compile(backend="cpu", fallback="silent")
def linear(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    q, k = F.elu(q) + 1, F.elu(k - k.amax(-2, keepdim=True).detach()) + 1
    return q @ (k.mT @ v) / (q @ k.sum(-2).unsqueeze(-1) + eps), q


def test_the_gradient_is_pytorchs() -> None:
    random = torch.Generator().manual_seed(0)
    for n in (9, 14):
        qkv = [torch.randn(2, n, 5, generator=random).requires_grad_() for _ in range(3)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = linear(*qkv)
            found_gradients = torch.autograd.grad([x.square().sum() for x in found], qkv)
        expected = linear.eager(*qkv)
        gradients = torch.autograd.grad([x.square().sum() for x in expected], qkv)
        for x, y in zip([*found, *found_gradients], [*expected, *gradients], strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_what_goes_around_attention_is_pytorchs_to_the_last_bit() -> None:
    def pooled(x: Tensor, weight: Tensor) -> Tensor:
        return F.avg_pool2d(F.conv2d(x, weight), 3, 1, 1)

    args = torch.randn(1, 90, 64, 64), torch.randn(270, 90, 1, 1)
    assert torch.equal(attnc.compile(pooled, backend="cpu", fallback="silent")(*args), pooled(*args))


def test_forward_runs_once() -> None:
    qkv = [torch.randn(2, 9, 5, requires_grad=True) for _ in range(3)]
    linear(*qkv)
    with torch.profiler.profile(acc_events=True) as profile:
        torch.autograd.grad(linear(*qkv)[0].sum(), qkv)
    with torch.profiler.profile(acc_events=True) as eager:
        torch.autograd.grad(linear.eager(*qkv)[0].sum(), qkv)
    count, expected = (sum(e.count for e in p.key_averages() if e.key == "aten::elu") for p in (profile, eager))
    assert count == expected == 2
