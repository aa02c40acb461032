"""What is wrong with the tensors given to a plan, in words.  Runs only when a quick check has failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..ir.expr import evaluate, free_vars, loads, parse
from .errors import InputError

if TYPE_CHECKING:
    from .plan import Plan


def check_inputs(plan: Plan, tensors: Sequence[torch.Tensor]) -> None:
    """Raise :class:`InputError` with everything that does not fit; return if all does."""
    if len(tensors) != len(plan.inputs):
        names = ", ".join(i.name for i in plan.inputs)
        raise InputError(f"{plan.name} takes {len(plan.inputs)} tensors ({names}), found {len(tensors)}")
    problems: list[str] = []
    for spec, x in zip(plan.inputs, tensors, strict=True):
        if x.dim() != len(spec.shape):
            expected = ", ".join(spec.shape)
            problems.append(f"{spec.name} has {x.dim()} dimensions, expected {len(spec.shape)}: ({expected})")
        if x.dtype is not getattr(torch, spec.dtype):
            problems.append(f"{spec.name} is {_short(x.dtype)}, expected {spec.dtype}")
    if not problems:
        problems = _size_problems(plan, tensors)
    if problems:
        raise InputError(f"{plan.name} was compiled for other arguments: " + "; ".join(problems))


def _size_problems(plan: Plan, tensors: Sequence[torch.Tensor]) -> list[str]:
    problems: list[str] = []
    sizes = plan.sizes_of(tensors)
    for spec, x in zip(plan.inputs, tensors, strict=True):
        expected = tuple(evaluate(parse(s), sizes) for s in spec.shape)
        if tuple(x.shape) != expected:
            problems.append(f"{spec.name} has shape {tuple(x.shape)}, expected {expected} = ({', '.join(spec.shape)})")
    devices = sorted({str(x.device) for x in tensors if x.dim()})
    if len(devices) > 1:
        problems.append(f"the tensors are on several devices: {', '.join(devices)}")
    if plan.device_type and any(x.device.type != plan.device_type for x in tensors if x.dim()):
        problems.append(f"the tensors are on {', '.join(devices)}, expected {plan.device_type}")
    guards = [g for g in plan.guards if not loads(parse(g)) and free_vars(parse(g)) <= sizes.keys()]
    broken = [g for g in guards if not evaluate(parse(g), sizes)]
    values = ", ".join(f"{k} = {v}" for k, v in sorted(sizes.items()))
    problems += [f"{guard} does not hold ({values})" for guard in broken]
    return problems


def check_value(x: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], call: str, at: str) -> None:
    """Raise :class:`InputError` because a call gave another tensor than the tracer foresaw."""
    where = f" ({at})" if at else ""
    raise InputError(
        f"the call {call!r}{where} gave {_short(x.dtype)} {tuple(x.shape)}, but the compiled kernel after it "
        f"expects {_short(dtype)} {shape}; this is a defect of the tracer: please report it"
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
