"""Tensors are called in the generated code as users call them, whatever that is."""

from __future__ import annotations

import torch
from torch import Tensor

import attnc


def test_names_like_generated_ones() -> None:
    """``e_1`` and ``v_0`` are also what a second ``e`` and a first nameless value are called; ``args`` is a pointer."""

    def attention(q: Tensor, e: Tensor, e_1: Tensor, v_0: Tensor, args: Tensor) -> Tensor:
        return (q @ e.mT + e_1 + v_0).softmax(-1) @ args

    random = torch.Generator().manual_seed(0)
    q, e, args = torch.randn(3, 2, 19, 5, generator=random)
    e_1, v_0 = torch.randn(19, generator=random), torch.randn(19, 1, generator=random)
    f = attnc.compile(attention, backend="cpu", fallback="error")
    assert attnc.validate(f, q, e, e_1, v_0, args).ok
