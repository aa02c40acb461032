"""A compiled function against eager, SDPA and FlexAttention, forward and backward: ``attnc bench``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ...ir.errors import AttncError
from .timing import Call, Comparison, compare

CONTENDERS = ("eager", "sdpa", "flex")


@dataclass
class Benchmark:
    """What was measured, and who could not take part and why."""

    comparisons: list[Comparison] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def bench(
    fn: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    rounds: int = 10,
    backward: bool = False,
    against: Sequence[str] = CONTENDERS,
) -> Benchmark:
    """Time a compiled function on inputs of the user's."""
    result = Benchmark()
    tensors = [x for x in pytree.tree_leaves((args, dict(kwargs))) if isinstance(x, torch.Tensor)]
    contenders: dict[str, Callable[[], Any]] = {"attnc": partial(fn, *args, **kwargs)}
    for name in against:
        try:
            contenders[name] = _contender(name, fn, args, kwargs)
            with torch.no_grad():
                contenders[name]()
        except Exception as error:  # whatever keeps a rival away, the others are still compared
            contenders.pop(name, None)
            result.absent[name] = _reason(error)
    with torch.no_grad():
        result.comparisons.append(compare("forward", contenders, rounds))
    if backward:
        result.comparisons.append(_backward(contenders, tensors, rounds, result.absent))
    return result


def _contender(name: str, fn: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    from .. import rivals

    if name == "eager":
        return partial(fn.eager, *args, **kwargs)
    inputs = [
        torch.as_tensor(x) for x in pytree.tree_leaves((args, dict(kwargs))) if isinstance(x, (torch.Tensor, float))
    ]
    attention = rivals.single(fn.lower(*args, **kwargs).module("attn"), inputs)
    rival = rivals.sdpa(attention) if name == "sdpa" else rivals.flex(attention)
    return partial(rival, *attention.tensors)


def _backward(
    contenders: Mapping[str, Call], tensors: Sequence[torch.Tensor], rounds: int, absent: dict[str, str]
) -> Comparison:
    """The backward alone: one forward is made in advance, and its graph kept."""
    leaves = [x for x in tensors if x.is_floating_point()]
    for x in leaves:
        x.requires_grad_()
    calls: dict[str, Call] = {}
    for name, call in contenders.items():
        try:
            outputs = [x for x in pytree.tree_leaves(call()) if isinstance(x, torch.Tensor) and x.requires_grad]
            gradients = [torch.randn_like(x) for x in outputs]
            calls[name] = partial(torch.autograd.grad, outputs, leaves, gradients, retain_graph=True, allow_unused=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                calls[name]()
        except Exception as error:
            calls.pop(name, None)
            absent[f"{name} backward"] = _reason(error)
    return compare("backward", calls, rounds)


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    name = "" if isinstance(error, AttncError) else f"{type(error).__name__}: "
    return name + (text[0] if text else "")
