"""Gradients of a compiled function: compiled, too, or, loudly, by running the function as written once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from . import autocast
from .recompute import Call, recomputed
from .smooth import is_smooth

if TYPE_CHECKING:
    from .specialise import Specialisation


class _Refused(Exception):
    """The call breaks a guard."""


class _Compiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: Specialisation, call: Call, *inputs: Any) -> Any:
        tensors = found.tensors(inputs)
        if autocast.active():
            with autocast.off(found.device.type):
                done = found.run_saving(inputs, tensors)
        else:
            done = found.run_saving(inputs, tensors)
        if done is None:
            raise _Refused
        results, saved = done
        ctx.found, ctx.call, ctx.count = found, call, len(tensors)
        if not found.plain_results:
            # Views, and arguments handed back, are for autograd as if the function had made them.
            results = [r.detach() if r._is_view() or any(r is x for x in tensors) else r for r in results]
            ctx.mark_non_differentiable(*(r for r in results if not is_smooth(r.dtype)))
        ctx.save_for_backward(*tensors, *saved)
        ctx.set_materialize_grads(False)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        found, call, kept = ctx.found, ctx.call, ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        tensors, saved = kept[: ctx.count], kept[ctx.count :]
        if torch.is_grad_enabled():
            why = "it is itself differentiated (create_graph=True), and compiled gradients are not"
            return None, None, *recomputed(found, call, tensors, needs, gradients, why)
        if all(g is None for g in gradients):
            return (None,) * len(ctx.needs_input_grad)
        results, why = found.differentiate(needs, [*tensors, *saved], gradients)
        if results is None:
            return None, None, *recomputed(found, call, tensors, needs, gradients, why)
        return None, None, *results


# what `apply` calls once it has looked for tensors that functorch wrapped
_apply_plain: Any = super(torch.autograd.Function, _Compiled).apply


def run_with_gradient(
    found: Specialisation, call: Call, inputs: Sequence[Any], plain: bool = False
) -> Sequence[torch.Tensor] | None:
    """The resulting tensors, ready to be differentiated, or None if a guard does not hold.

    ``plain``: functorch has nothing to do with the inputs.
    """
    if not found.fused:
        return call.eager(found, inputs) if found.holds(inputs) else None
    try:
        return (_apply_plain if plain else _Compiled.apply)(found, call, *inputs)
    except _Refused:
        return None
