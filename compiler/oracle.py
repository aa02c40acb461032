"""Running the user's function eagerly as a judge: in float64, with empty rows defined, within the memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..ir.errors import AttncError

_LOW = (torch.float32, torch.float16, torch.bfloat16)
_NARROWING = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}
_SOFTMAX = {torch.softmax, torch.Tensor.softmax, torch.nn.functional.softmax}
_MATMUL = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm}
_SDPA = torch.nn.functional.scaled_dot_product_attention
_KEPT_ALIVE = 4  # values of the size of the scores that a softmax and its backward hold at once

_SMALL = 64 << 20  # bytes not worth asking the system about


class EagerTooLargeError(AttncError):
    """An eager run that would not fit in memory."""


class EagerMode(TorchFunctionMode):
    """Runs what is inside eagerly, but a softmax over keys none of which is live gives 0, not NaN.

    With ``double`` everything is computed in float64, whatever dtype the function asks for; captured float32
    tensors are widened where they are used.
    """

    def __init__(self, double: bool):
        super().__init__()
        self.double = double
        self.default = torch.get_default_dtype()

    def __enter__(self) -> EagerMode:
        if self.double:
            torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        if self.double:
            torch.set_default_dtype(self.default)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.double:
            if func in _NARROWING:
                func, args, kwargs = torch.Tensor.double, args[:1], {}
            args, kwargs = pytree.tree_map(_widened, (args, kwargs))
        self._refuse_what_does_not_fit(func, args, kwargs)
        if func in _SOFTMAX:
            return _softmax(func, args, kwargs)
        return func(*args, **kwargs)

    def _refuse_what_does_not_fit(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> None:
        shape = result_shape(func, args, kwargs)
        if shape is None:
            return
        need = math.prod(shape) * (8 if self.double else 4) * _KEPT_ALIVE
        if need < _SMALL:
            return
        available = available_memory(_device_of(args, kwargs))
        if need > available:
            raise EagerTooLargeError(
                f"running the function eagerly would build values of shape ({', '.join(map(str, shape))}): about "
                f"{need / 2**30:,.1f} GiB, but {available / 2**30:,.1f} GiB are free; use fewer tokens, heads or "
                "batches (to validate, slices are enough: kernels do not depend on sizes)"
            )


def _device_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device:
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    return next((t.device for t in tensors if t.device.type != "cpu"), torch.device("cpu"))


def available_memory(device: torch.device) -> float:
    """Bytes of memory free for use; infinite where the system does not say."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as file:
            rows = dict(line.split(":") for line in file)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    except (OSError, ValueError, AttributeError):
        return math.inf


def result_shape(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape that an operation's widest value will have, from its operands' shapes alone; None if unknown."""
    try:
        operands = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
        shapes = [tuple(t.shape) for t in operands]
        if func in _MATMUL and min(map(len, shapes)) >= 2:
            batch = torch.broadcast_shapes(shapes[0][:-2], shapes[1][:-2])
            return (*batch, shapes[0][-2], shapes[1][-1])
        if func is _SDPA:
            return (*shapes[0][:-1], shapes[1][-2])
        if func is torch.einsum and isinstance(args[0], str):
            return _einsum_shape(args[0], [tuple(t.shape) for t in pytree.tree_leaves(args[1:])])
        return tuple(torch.broadcast_shapes(*shapes)) if len(shapes) > 1 else None
    except (RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError):
        return None  # the operation itself will say what is wrong


def _einsum_shape(equation: str, shapes: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    if not arrow or "." in equation:
        return None
    sizes = {
        letter: n
        for term, shape in zip(inputs.split(","), shapes, strict=True)
        for letter, n in zip(term, shape, strict=True)
    }
    return tuple(sizes[letter] for letter in output)


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.dtype in _LOW else value
    return torch.float64 if isinstance(value, torch.dtype) and value in _LOW else value


def _has_values(x: torch.Tensor) -> bool:
    """Can Python branch on it?  Not while PyTorch traces or batches."""
    return type(x) is torch.Tensor and not torch._C._are_functorch_transforms_active()


def _softmax(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    scores: Any = args[0] if args else kwargs.get("input", kwargs.get("self"))
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    if dim is None:
        return func(*args, **kwargs)
    dead = torch.eq(scores, -math.inf).all(dim, keepdim=True)
    if _has_values(dead) and not dead.any():
        return func(*args, **kwargs)
    # Filled before as well as after: NaN would pass through a fill in the backward.
    filled = scores.masked_fill(dead, 0.0)
    args = (filled, *args[1:]) if args else ()
    kwargs = kwargs if args else {**kwargs, ("input" if "input" in kwargs else "self"): filled}
    return func(*args, **kwargs).masked_fill(dead, 0.0)
