"""Tensors whose memory does not hold their values: PyTorch negates some of them only when they are read."""

from __future__ import annotations

import pytest
import torch

import attnc

Tensor = torch.Tensor


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def rotated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The queries are the imaginary part of a conjugate, which is a view that PyTorch calls negated."""
    q = torch.view_as_complex(torch.stack([k, q], -1)).conj().imag
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def qkv() -> list[Tensor]:
    made = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, 21, 8, generator=made) for _ in range(3)]


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
def test_negated_arguments(backend: str) -> None:
    q, k, v = qkv()
    lazy = torch.complex(k, q).conj().imag
    assert lazy.is_neg()
    fn = attnc.compile(attention, backend=backend, fallback="error")
    for _ in range(2):  # the second call takes the short way
        torch.testing.assert_close(fn(lazy, k, v), attention(-q, k, v), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fn(q, k, lazy), attention(q, k, -q), rtol=1e-5, atol=1e-6)
    x = q.clone().requires_grad_()
    (found,) = torch.autograd.grad(fn(torch.complex(k, x).conj().imag, lazy, v), x, lazy)
    (expected,) = torch.autograd.grad(attention(-x, -q, v), x, -q)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::attnc.FallbackWarning")
def test_negated_within_the_function() -> None:
    x = qkv()
    torch.testing.assert_close(attnc.compile(rotated, backend="cpu")(*x), rotated(*x), rtol=1e-5, atol=1e-6)


def test_a_tensor_without_memory_is_refused() -> None:
    q, k, v = qkv()
    fn = attnc.compile(attention, backend="cpu")
    with pytest.raises(attnc.AttncError, match="has no memory; pass a copy"):
        fn(torch._efficientzerotensor(q.shape), k, v)


def test_layouts_after_a_dense_call() -> None:
    q, k, v = qkv()
    fn = attnc.compile(attention, backend="cpu")
    fn(q, k, v)
    with pytest.raises(attnc.ArgumentError, match=r"k is a sparse_coo tensor.*pass k\.to_dense"):
        fn(q, k.to_sparse(), v)
    torch.testing.assert_close(fn(q, k, v), attention(q, k, v), rtol=1e-5, atol=1e-6)
