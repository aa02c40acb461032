"""Complex numbers around attention: rotary positions as products of complex numbers."""

from __future__ import annotations

import pytest
import torch

import attnc

Tensor = torch.Tensor


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).type_as(x)


def rotary(q: Tensor, k: Tensor, v: Tensor, turns: Tensor) -> Tensor:
    q, k = rotate(q, turns), rotate(k, turns)
    i = torch.arange(q.shape[2])
    masked = torch.where(i[None] > i[:, None], float("-inf"), 0.0).type_as(q)
    return torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + masked, -1) @ v


def conjugated(q: Tensor, k: Tensor, v: Tensor, turns: Tensor) -> Tensor:
    """The score is the real part of a Hermitian product, summed by eager PyTorch: not fused, and right."""
    q, k = (torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * turns for x in (q, k))
    return (q @ k.mH).real.softmax(-1) @ v


def projected(q: Tensor, k: Tensor, v: Tensor, turns: Tensor) -> Tensor:
    """Weights meet complex values."""
    v = torch.view_as_complex(v.reshape(*v.shape[:-1], -1, 2)) * turns
    return torch.view_as_real((q @ k.mT).softmax(-1).to(v.dtype) @ v).flatten(-2)


def spectrum(q: Tensor, k: Tensor, v: Tensor, turns: Tensor) -> Tensor:
    return torch.view_as_complex((q @ k.mT).softmax(-1).matmul(v).reshape(*v.shape[:-1], -1, 2)) * turns


def inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    made = torch.Generator().manual_seed(0)
    qkv = [torch.randn(2, 3, 13, 8, generator=made).to(dtype).requires_grad_() for _ in range(3)]
    return [*qkv, torch.polar(torch.ones(13, 4), torch.randn(13, 4, generator=made)).requires_grad_()]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("fn", [rotary, conjugated, projected, spectrum])
@pytest.mark.filterwarnings("ignore::attnc.FallbackWarning")
def test_outputs_and_gradients(fn, backend: str) -> None:
    x = inputs()
    compiled = attnc.compile(fn, backend=backend)
    out, expected = compiled(*x), fn(*x)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    weights = torch.randn(expected.shape, dtype=expected.dtype)
    for found, oracle in zip(
        torch.autograd.grad((out * weights).sum().abs(), x),
        torch.autograd.grad((expected * weights).sum().abs(), x),
        strict=True,
    ):
        torch.testing.assert_close(found, oracle, rtol=1e-4, atol=1e-5)


def test_rotary_positions_are_fused() -> None:
    compiled = attnc.compile(rotary, backend="cpu", fallback="error")
    compiled(*inputs())
    compiled(*inputs(torch.bfloat16))
    explained = compiled.lower(*inputs()).explain()
    assert explained.fused
    assert explained.live_fraction < 0.6


def test_a_quadratic_complex_product_is_loud() -> None:
    with pytest.raises(attnc.FallbackError, match=r"test_complex.py:\d+: "):
        attnc.compile(conjugated, backend="cpu", fallback="error")(*inputs())


def test_types_that_nothing_holds() -> None:
    def narrow(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k = k.to(torch.float8_e4m3fn).to(q.dtype)
        return (q @ k.mT).softmax(-1) @ v

    with pytest.raises(attnc.AttncError, match=r"test_complex.py:\d+: .*float8_e4m3fn"):
        attnc.compile(narrow, backend="cpu")(*inputs()[:3])
