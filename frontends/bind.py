"""From the arguments of a call to its key, its tensors and the values that code around it reads."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import torch

from . import autocast
from .closures import ByValue

ORDINARY = frozenset({torch.Tensor, torch.nn.Parameter})
_STATIC = (int, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size, Enum, range, slice, ByValue)


class Binder:
    """The parameters of one function."""

    def __init__(self, fn: Callable[..., Any]):
        self.signature = inspect.signature(fn)
        parameters = list(self.signature.parameters.values())
        self.names = [p.name for p in parameters]
        self.kinds = {p.name: p.kind for p in parameters}
        plain = all(p.kind is p.POSITIONAL_OR_KEYWORD or p.kind is p.POSITIONAL_ONLY for p in parameters)
        self.count = len(parameters) if plain else -1

    def values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """One value per parameter.  Raises TypeError as the function itself would."""
        if not kwargs and len(args) == self.count:
            return args
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return tuple(bound.arguments[name] for name in self.names)

    def call(self, fn: Callable[..., Any], values: tuple[Any, ...]) -> Any:
        """``fn`` with one value per parameter."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, value in zip(self.names, values, strict=True):
            match self.kinds[name]:
                case inspect.Parameter.VAR_POSITIONAL:
                    args.extend(value)
                case inspect.Parameter.VAR_KEYWORD:
                    kwargs.update(value)
                case inspect.Parameter.KEYWORD_ONLY:
                    kwargs[name] = value
                case _:
                    args.append(value)
        return fn(*args, **kwargs)


class Identity:
    """Equal for one and the same object only; does not keep it alive where it can help it."""

    __slots__ = ("hash", "ref")

    def __init__(self, value: Any):
        self.hash = id(value)
        try:
            self.ref: Callable[[], Any] = weakref.ref(value)
        except TypeError:
            self.ref = lambda: value

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.ref() is other.ref() is not None


def describe(value: Any, key: list[Any], leaves: list[Any]) -> None:
    """Append what compilation depends on to ``key``, and tensors and floats to ``leaves``."""
    if isinstance(value, torch.Tensor):
        one = (value.dtype, value.dim(), value.device, value.layout, value.is_nested)
        key.append(one if type(value) in ORDINARY else (*one, type(value)))
        leaves.append(value)
    elif type(value) is float:
        key.append(float)
        leaves.append(value)
    elif isinstance(value, _STATIC):
        key.append((type(value), value))
    elif isinstance(value, tuple | list):
        key.append((type(value), len(value)))
        for x in value:
            describe(x, key, leaves)
    elif isinstance(value, dict):
        key.append((type(value), tuple(value)))
        for x in value.values():
            describe(x, key, leaves)
    else:
        key.append(Identity(value))


def key_of(values: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[Any], torch.dtype | None]:
    """What the compilation of a call depends on, its tensors and floats, and what autocast computes in."""
    parts: list[Any] = []
    leaves: list[Any] = []
    for value in values:
        describe(value, parts, leaves)
    low = autocast.state(device.type) if autocast.active() and (device := device_of(leaves)) else None
    parts.append((low, torch.get_default_dtype()))
    return tuple(parts), leaves, low


def device_of(leaves: Sequence[Any]) -> torch.device | None:
    """Where a call computes: numbers may lie elsewhere."""
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    return next((x.device for x in tensors if x.dim()), tensors[0].device if tensors else None)


def leaf_paths(path: str, value: Any) -> list[str]:
    """The paths of the leaves of :func:`describe`, in its order: ``cache[0]``."""
    if isinstance(value, torch.Tensor) or type(value) is float:
        return [path]
    if isinstance(value, torch.Size):
        return []
    if isinstance(value, tuple | list):
        return [p for n, x in enumerate(value) for p in leaf_paths(f"{path}[{n}]", x)]
    if isinstance(value, dict):
        return [p for k, x in value.items() for p in leaf_paths(f"{path}[{k!r}]", x)]
    return []


def replace_leaves(value: Any, new: list[Any]) -> Any:
    """``value`` with its leaves taken from the front of ``new``."""
    if isinstance(value, torch.Tensor) or type(value) is float:
        return new.pop(0)
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replace_leaves(x, new) for x in value))
    if isinstance(value, tuple | list):
        return type(value)(replace_leaves(x, new) for x in value)
    if isinstance(value, dict):
        return {k: replace_leaves(x, new) for k, x in value.items()}
    return value
