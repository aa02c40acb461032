"""A call like the one before: its arguments are tensors, and autocast is off.

The plan checks the number of tensors, their types, devices, ranks and sizes by itself, so such a call need not be
described to find its specialisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import forward_ad

from . import autocast
from .bind import ORDINARY
from .gradient import run_with_gradient
from .recompute import Call

if TYPE_CHECKING:
    from .compiled import CompiledAttention
    from .specialise import Specialisation

_default: Any = torch.get_default_dtype
_is_wrapped: Any = torch._C._functorch.is_functorch_wrapped_tensor


class Again:
    """What calls like one that ``found`` served have in common."""

    __slots__ = ("default", "found", "pick", "run")

    def __init__(self, found: Specialisation):
        self.found, self.pick, self.run = found, found.pick, found.plan.runner
        self.default = _default()

    @staticmethod
    def of(found: Specialisation, values: Sequence[Any], low: torch.dtype | None) -> Again | None:
        """None where a call depends on more than its tensors."""
        special = found.scalars or found.values_hold or found.random or low is not None or not found.fused
        if special or found.plan.device_type is None or not all(type(x) in ORDINARY for x in values):
            return None
        return Again(found)

    def call(self, compiled: CompiledAttention, args: tuple[Any, ...]) -> Sequence[torch.Tensor] | None:
        """The resulting tensors, or None if this call is not like that one."""
        inputs: Sequence[torch.Tensor] = args
        if self.found.outside:
            names = compiled._binder.names
            if len(args) != len(names):
                return None
            captured = self.found.inputs(dict(zip(names, args, strict=True)), list(args))
            if captured is None:
                return None
            inputs = captured
        wanted = False
        for x in inputs:
            if type(x) not in ORDINARY:
                return None
            if x.requires_grad:
                wanted = True
        if autocast.active() or forward_ad._current_level >= 0 or _default() is not self.default:
            return None
        if not wanted or not torch.is_grad_enabled():
            try:
                return self.run(inputs, False)
            except RuntimeError:
                if all(x.layout is torch.strided and not x.is_nested for x in inputs):
                    raise
                return None  # described as what they are, such tensors are refused
        if any(map(_is_wrapped, inputs)):  # left over from a transform that has ended
            return None
        call = Call(compiled, (0.0,) * len(args), len(args), {}, None, [])
        return run_with_gradient(self.found, call, inputs, plain=True)
