"""A compiled function against eager, SDPA and FlexAttention, forward and backward: ``attnc bench``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from ...ir.errors import AttncError
from .timing import Call, Comparison, compare

if TYPE_CHECKING:
    from ..rivals import Single

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
    seconds: float = 0.0,
    enough: float = math.inf,
    backward: bool = False,
    against: Sequence[str] = CONTENDERS,
) -> Benchmark:
    """Time a compiled function on inputs of the user's, forward in turns of ``seconds`` at least.

    No call takes turns after they took ``enough``.
    """
    result = Benchmark()
    tensors = [x for x in pytree.tree_leaves((args, dict(kwargs))) if isinstance(x, torch.Tensor)]
    contenders: dict[str, Callable[[], Any]] = {"attnc": partial(fn, *args, **kwargs)}
    single = cache(partial(_single, fn, args, kwargs))  # the kernel that a rival must offer, too
    for name in against:
        try:
            contenders[name] = partial(fn.eager, *args, **kwargs) if name == "eager" else _rival(name, single())
            with torch.no_grad():
                contenders[name]()
        except Exception as error:  # whatever keeps a rival away, the others are still compared
            contenders.pop(name, None)
            result.absent[name] = _reason(error)
    with torch.no_grad():
        result.comparisons.append(
            compare("forward", contenders, rounds, seconds=seconds, enough=enough, warm=[*contenders][1:])
        )
    if backward:
        result.comparisons.append(_backward(contenders, tensors, rounds, result.absent))
    return result


def _single(fn: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Single:
    from ..rivals import single

    inputs = [
        torch.as_tensor(x) for x in pytree.tree_leaves((args, dict(kwargs))) if isinstance(x, (torch.Tensor, float))
    ]
    return single(fn.lower(*args, **kwargs).module("attn"), inputs)


def _rival(name: str, attention: Single) -> Call:
    from ..rivals import flex, sdpa

    return partial(sdpa(attention) if name == "sdpa" else flex(attention), *attention.tensors)


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
