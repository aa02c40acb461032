"""A call of a compiled function, run once more as it is written: for what only PyTorch can differentiate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import forward_ad

from ..compiler.oracle import EagerMode
from . import autocast
from .bind import replace_leaves
from .graph import leaves as tree_leaves
from .substitute import substituted

if TYPE_CHECKING:
    from .compiled import CompiledAttention
    from .specialise import Specialisation

Tensors = Sequence[torch.Tensor]


@dataclass(slots=True)
class Call:
    """One call, without its tensors: autograd keeps those, and may move or recompute them meanwhile."""

    compiled: CompiledAttention
    values: tuple[Any, ...]  # of the parameters, with a number in the place of each tensor
    leaves: int  # how many of the inputs are arguments; the others are captured
    floats: dict[int, float]  # the inputs that are Python floats
    low: torch.dtype | None  # what autocast computes in
    random: list[tuple[Callable[[torch.Tensor], None], torch.Tensor]]  # generator states, each with what sets it

    @staticmethod
    def of(
        compiled: CompiledAttention,
        found: Specialisation,
        values: tuple[Any, ...],
        leaves: int,
        inputs: Sequence[Any],
        low: torch.dtype | None,
    ) -> Call:
        floats = {n: x for n, x in enumerate(inputs) if not isinstance(x, torch.Tensor)} if found.scalars else {}
        blank = [0.0] * leaves
        flat = leaves == len(values) and all(map(is_, values, inputs))
        template = tuple(blank) if flat else replace_leaves(values, blank)
        return Call(compiled, template, leaves, floats, low, _states(found.device) if found.random else [])

    def eager(self, found: Specialisation, tensors: Tensors) -> list[torch.Tensor]:
        """The tensors that the function as written returns for these inputs."""
        new: list[Any] = list(tensors)
        for n, x in self.floats.items():
            new[n] = x
        values = replace_leaves(self.values, new[: self.leaves])
        arguments = dict(zip(self.compiled._binder.names, values, strict=True))
        captured = [getter(arguments) for getter, *_ in found.captures]  # as they are now; `tensors` is as they were
        with autocast.switched(found.device.type, self.low), substituted(captured, new[self.leaves :]):
            out = self.compiled._binder.call(self.compiled.eager, values)
        return [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]

    def warn(self, found: Specialisation, tensors: Tensors, why: str) -> None:
        """Report once that this function's gradient is eager, and why."""
        sizes = found.sizes([self.floats.get(n, x) for n, x in enumerate(tensors)])
        found.report_backward(self.compiled.fallback, sizes, why)


def recomputed(
    found: Specialisation,
    call: Call,
    tensors: Tensors,
    needs: Sequence[bool],
    gradients: Sequence[torch.Tensor | None],
    why: str,
) -> list[torch.Tensor | None]:
    """A gradient, or None, for each input, by PyTorch through the function as written."""
    call.warn(found, tensors, why)
    again = torch.is_grad_enabled()
    # an empty row has gradient zero, where PyTorch's own softmax would spread NaN
    with torch.enable_grad(), EagerMode(double=False), _restored(found, call):
        # a view for each input tells apart what one tensor is used for, and keeps its history if that is needed
        copies = [
            x.view_as(x) if again else x.detach().requires_grad_(need) for x, need in zip(tensors, needs, strict=True)
        ]
        outputs = call.eager(found, copies)
    pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None and o.requires_grad]
    if not pairs:
        return [None] * len(tensors)
    wanted = [n for n, need in enumerate(needs) if need]
    grads = torch.autograd.grad(
        [o for o, _ in pairs], [copies[n] for n in wanted], [g for _, g in pairs], allow_unused=True, create_graph=again
    )
    result: list[torch.Tensor | None] = [None] * len(tensors)
    for n, g in zip(wanted, grads, strict=True):
        result[n] = g
    return result


def has_tangents(inputs: Sequence[Any]) -> bool:
    """Is a derivative carried forwards through some input?"""
    return any(isinstance(x, torch.Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in inputs)


def run_as_written(found: Specialisation, call: Call, inputs: Sequence[Any]) -> list[torch.Tensor] | None:
    """The tensors that the function as written returns, with their tangents; None if a guard does not hold."""
    if not found.holds(inputs):
        return None
    call.warn(found, inputs, "its arguments carry tangents (forward-mode differentiation), which kernels do not")
    with EagerMode(double=False):
        return call.eager(found, inputs)


def _states(device: torch.device) -> list[tuple[Callable[[torch.Tensor], None], torch.Tensor]]:
    states: list[tuple[Callable[[torch.Tensor], None], torch.Tensor]] = [(torch.set_rng_state, torch.get_rng_state())]
    if device.type == "cuda":
        states.append((lambda state: torch.cuda.set_rng_state(state, device), torch.cuda.get_rng_state(device)))
    return states


@contextmanager
def _restored(found: Specialisation, call: Call) -> Iterator[None]:
    """Random numbers as the call drew them; those drawn later are not touched."""
    if not call.random:
        yield
        return
    now = _states(found.device)
    try:
        for put, state in call.random:
            put(state)
        yield
    finally:
        for put, state in now:
            put(state)
