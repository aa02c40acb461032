"""The functions that are compiled under stress, and what they must give."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

import attnc
from attnc.compiler import driver

SHAPE = (1, 2, 45, 8)


def banded(reach: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A function with a mask, and so a plan, of its own for each number."""

    def band(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        i = torch.arange(q.shape[-2])[:, None]
        j = torch.arange(k.shape[-2])[None, :]
        return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill((i - j).abs() > reach, float("-inf")).softmax(-1) @ v

    return band


def inputs(grad: bool = False) -> list[Tensor]:
    made = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=made, requires_grad=grad) for _ in range(3)]


@cache
def expected(reach: int) -> tuple[Tensor, Tensor]:
    """What eager PyTorch gives in float64: the output, and the gradient of its sum of squares by the queries."""
    q, k, v = (x.detach().double().requires_grad_() for x in inputs())
    out = banded(reach)(q, k, v)
    (gradient,) = torch.autograd.grad(out.square().sum(), q)
    return out.detach(), gradient


class WrongNumberError(AssertionError):
    """A compiled function gave something else than eager PyTorch."""


def call(reach: int, options: Mapping[str, Any] | None = None, backward: bool = False) -> None:
    """Compile, or load, and compare.  Raises :class:`WrongNumberError`."""
    function = attnc.compile(banded(reach), backend="cpu", fallback="error", options=options)
    check(function, reach, backward)


def check(function: attnc.CompiledAttention, reach: int, backward: bool = False) -> None:
    q, k, v = inputs(backward)
    out = function(q, k, v)
    pairs = [(out, expected(reach)[0])]
    if backward:
        pairs.append((torch.autograd.grad(out.square().sum(), q)[0], expected(reach)[1]))
    for found, oracle in pairs:
        error = (found.double() - oracle).abs().max().item()
        if not error < 1e-5:  # NaN, too
            raise WrongNumberError(f"a band of {reach} is off by {error}")


def call_at_random(seed: int, calls: int, kinds: int = 4) -> None:
    """Calls of random kinds, as in fresh processes: memory is emptied before each."""
    choose = random.Random(seed)
    for _ in range(calls):
        driver.forget()
        mode = "refresh" if choose.random() < 0.3 else "on"
        call(choose.randrange(kinds), {"cache": mode}, backward=choose.random() < 0.2)
