"""Functions that keep gradients out of a part: PyTorch follows them, loudly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import attnc
from attnc.compiler.errors import AttncError

Tensor = torch.Tensor


def detached(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.detach().mT).softmax(-1) @ v


def without_gradient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with torch.no_grad():
        k = k * 2
    return (q @ k.mT).softmax(-1) @ v


@torch.no_grad()
def nothing(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


def mask_without_gradient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with torch.no_grad():
        i = torch.arange(q.shape[-2])
        bias = -(i[:, None] - i[None, :]).abs().float()
    return (q @ k.mT + bias).softmax(-1) @ v


def stable(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    e = torch.exp(scores - scores.amax(-1, keepdim=True).detach())
    return e @ v / e.sum(-1, keepdim=True)


def stable_without_gradient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    with torch.no_grad():
        peak = scores.max(-1).values[..., None]
    p = torch.exp(scores - peak)
    return (p / p.sum(-1, keepdim=True)) @ v


def returns_the_peak(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    return scores.softmax(-1) @ v * scores.amax(-1, keepdim=True).detach()


def gradients(fn: Callable[..., Tensor]) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(1, 2, 9, 8, generator=generator).requires_grad_() for _ in range(3)]
    out = fn(*inputs)
    if out.requires_grad:
        out.square().sum().backward()
    return [x.grad for x in inputs]


@pytest.mark.parametrize("traced_without_gradient", [False, True])
@pytest.mark.filterwarnings("ignore:.*in returns_the_peak stay")
@pytest.mark.parametrize("fn", [detached, without_gradient, nothing, returns_the_peak], ids=lambda f: f.__name__)
def test_gradients_stay_out(fn: Callable[..., Tensor], traced_without_gradient: bool) -> None:
    compiled = attnc.compile(fn, backend="reference")
    if traced_without_gradient:
        with torch.no_grad():
            compiled(*(torch.randn(1, 2, 9, 8) for _ in range(3)))
    expected = gradients(fn)
    with pytest.warns(attnc.FallbackWarning, match=r"test_cut_gradients.py:\d+: .* keeps gradients out"):
        found = gradients(compiled)
    for x, y in zip(found, expected, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            torch.testing.assert_close(x, y)


def test_a_refusal_names_the_line() -> None:
    with pytest.raises(AttncError, match=r"test_cut_gradients.py:\d+: .*k.detach\(\).* keeps gradients out"):
        gradients(attnc.compile(detached, backend="reference", fallback="error"))


@pytest.mark.parametrize("fn", [mask_without_gradient, stable, stable_without_gradient], ids=lambda f: f.__name__)
def test_what_takes_no_gradient_anyway_is_compiled(fn: Callable[..., Tensor]) -> None:
    found = gradients(attnc.compile(fn, backend="reference", fallback="error"))
    for x, y in zip(found, gradients(fn), strict=True):
        torch.testing.assert_close(x, y)
