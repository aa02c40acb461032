"""Gradients, by running the function as written once more: correct, and loud about the memory it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..compiler.oracle import EagerMode

Forward = Callable[[Sequence[Any]], list[torch.Tensor]]
Eager = Callable[[Sequence[Any]], list[torch.Tensor]]  # the outputs of the function as written


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, forward: Forward, eager: Eager, warn: Callable[[], None], others: list[Any], *tensors: torch.Tensor
    ) -> Any:
        ctx.eager, ctx.warn, ctx.others = eager, warn, others
        ctx.save_for_backward(*tensors)
        results = forward(_merged(others, tensors))
        results = [r.clone() if any(r is t for t in tensors) else r for r in results]
        ctx.mark_non_differentiable(*(r for r in results if not r.is_floating_point()))
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        ctx.warn()
        tensors = ctx.saved_tensors
        wanted = [n for n, need in enumerate(ctx.needs_input_grad[4:]) if need]
        # an empty row has gradient zero, where PyTorch's own softmax would spread NaN
        with torch.enable_grad(), EagerMode(double=False):
            copies = [x.detach().requires_grad_(n in wanted) for n, x in enumerate(tensors)]
            outputs = ctx.eager(_merged(ctx.others, copies))
        pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad]
        found = torch.autograd.grad(
            [o for o, _ in pairs], [copies[n] for n in wanted], [g for _, g in pairs], allow_unused=True,
            create_graph=torch.is_grad_enabled(),
        )  # fmt: skip
        result: list[Any] = [None] * len(tensors)
        for n, g in zip(wanted, found, strict=True):
            result[n] = g
        return None, None, None, None, *result


class _Hole:
    """Where a tensor goes."""


def _merged(others: list[Any], tensors: Sequence[torch.Tensor]) -> list[Any]:
    rest = iter(tensors)
    return [next(rest) if x is _Hole else x for x in others]


def with_gradient(
    forward: Forward, eager: Eager, warn: Callable[[], None], leaves: Sequence[Any]
) -> list[torch.Tensor]:
    """Run ``forward`` so that its results can be differentiated through ``eager``."""
    others = [_Hole if isinstance(x, torch.Tensor) else x for x in leaves]
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    return list(_Recompute.apply(forward, eager, warn, others, *tensors))
