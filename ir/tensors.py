"""Expressions over PyTorch tensors: the scalar language evaluated at many points at once.

Needs no xDSL, so that plans may use it, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .expr import Const, Expr, Load, Op, Var, evaluate, free_vars

if TYPE_CHECKING:
    from .attributes import Dim

Tensor = torch.Tensor
Env = dict[str, Any]

_TORCH_OPS: dict[str, Callable[..., Tensor]] = {
    "+": torch.add, "-": torch.sub, "*": torch.mul, "/": torch.true_divide, "%": torch.remainder,
    "//": lambda a, b: torch.div(a, b, rounding_mode="floor"), "min": torch.minimum, "max": torch.maximum,
    "abs": torch.abs, "pow": torch.pow, "&": torch.bitwise_and, "|": torch.bitwise_or, "^": torch.bitwise_xor,
    "<<": torch.bitwise_left_shift, ">>": torch.bitwise_right_shift, "<": torch.lt, "<=": torch.le, ">": torch.gt,
    ">=": torch.ge, "==": torch.eq, "!=": torch.ne, "and": torch.logical_and, "or": torch.logical_or,
    "not": torch.logical_not, "where": torch.where, "floor": torch.floor, "ceil": torch.ceil, "exp": torch.exp,
    "exp2": torch.exp2, "log": torch.log, "log2": torch.log2, "sqrt": torch.sqrt, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "sin": torch.sin, "cos": torch.cos,
}  # fmt: skip


def tensor_value(e: Expr, env: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """The value of ``e`` for broadcastable tensors of index values; floats are computed in ``dtype``.

    A read outside its tensor (a dead element) gives some element of it, or zero from an empty tensor.
    """
    match e:
        case Const(value):
            kind = torch.bool if isinstance(value, bool) else torch.int64 if isinstance(value, int) else dtype
            return torch.tensor(value, dtype=kind)
        case Var(name, _):
            return torch.as_tensor(env[name])
        case Load(name, index, kind):
            source = tensors[name]
            at = [tensor_value(x, env, tensors, dtype) for x in index]
            value = read(source, at)
            return value.to(dtype) if kind == "float" else value.to(torch.int64) if kind == "int" else value.bool()
        case Op("inner", (a, b)):
            rank = max(torch.as_tensor(x).dim() for x in env.values())
            features = {**env, "d": env["d"].reshape(-1, *[1] * rank)}
            return (tensor_value(a, features, tensors, dtype) * tensor_value(b, features, tensors, dtype)).sum(0)
        case Op(name, args):
            values = [tensor_value(a, env, tensors, dtype) for a in args]
            if name in ("int", "floor", "ceil"):
                values[0] = values[0].to(dtype) if name != "int" and not values[0].is_floating_point() else values[0]
                return (_TORCH_OPS[name](values[0]) if name != "int" else values[0]).to(torch.int64)
            if name == "float":
                return values[0].to(dtype)
            if name in ("exp", "exp2", "log", "log2", "sqrt", "tanh", "sigmoid", "sin", "cos", "/"):
                values = [v if v.is_floating_point() else v.to(dtype) for v in values]
            elif any(v.is_floating_point() for v in values) and name != "where":
                values = [v if v.is_floating_point() or v.dtype == torch.bool else v.to(dtype) for v in values]
            elif name in ("+", "-", "*"):
                values = [v.to(torch.int64) if v.dtype == torch.bool else v for v in values]
            return _TORCH_OPS[name](*values)
    raise TypeError(f"not an expression: {e!r}")


def read(source: Tensor, index: Sequence[Tensor]) -> Tensor:
    """``source[index]`` with every index clamped into range."""
    if not index:
        return source
    index = torch.broadcast_tensors(*index)
    if source.numel() == 0:
        return source.new_zeros(index[0].shape)
    return source[tuple(x.clamp(0, n - 1) for x, n in zip(index, source.shape, strict=True))]


def along(values: Tensor, axis: int, rank: int) -> Tensor:
    return values.reshape([-1 if n == axis else 1 for n in range(rank)])


def points(dims: Sequence[Dim], sizes: Mapping[str, int]) -> list[dict[str, int]]:
    """All points of a domain, in order."""
    result: list[dict[str, int]] = [{}]
    for dim in dims:
        result = [p | {dim.name: n} for p in result for n in range(int(evaluate(dim.extent, {**sizes, **p})))]
    return result


def indices(index: Sequence[Expr], env: Env, axes: Mapping[str, Tensor]) -> list[Tensor]:
    """An index map at all points of ``axes``."""
    names = {n: along(x, k, len(axes)) for k, (n, x) in enumerate(axes.items())}
    shape = [len(x) for x in axes.values()]
    return [tensor_value(x, env | names, {}, torch.float64).expand(shape) for x in index]


def scatter(
    source: Tensor,
    dims: Sequence[Dim],
    index: Sequence[Expr],
    shape: Sequence[int],
    tensors: Mapping[str, Tensor],
    env: Mapping[str, Any],
) -> Tensor:
    """``output[index(x)] += source[x]`` over the points of ``dims``, in their order; ``attn.scatter``.

    The index of a dead point (one outside the extents, or a value of zero) may lie outside the output.  The same bits
    every time, on every device.
    """
    if not math.prod(shape) or not source.numel():
        return source.new_zeros(list(shape))
    names = [d.name for d in dims]
    points = {n: along(torch.arange(size, device=source.device), k, len(dims))
              for k, (n, size) in enumerate(zip(names, source.shape, strict=True))}  # fmt: skip
    env = {**env, **points}
    for k, d in enumerate(dims):
        extent = tensor_value(d.extent, env, tensors, torch.float64).to(source.device)
        if extent.numel() != 1 or int(extent) < source.shape[k]:
            source = source.where(points[d.name] < extent, 0)
    used = set().union(*(free_vars(e) for e in index))
    unused = [k for k, n in enumerate(names) if n not in used]
    if unused:
        source = source.sum(unused, keepdim=True)
    # a last axis that is copied as it is makes rows of the rest
    row = bool(names) and bool(index) and index[-1] == Var(names[-1])
    row = row and not any(names[-1] in free_vars(e) for e in index[:-1]) and source.shape[-1] == shape[-1]
    columns = shape[-1] if row else 1
    at = torch.zeros((), dtype=torch.int64, device=source.device)
    for e, size in zip(index[: len(index) - row], shape, strict=False):
        at = at * size + tensor_value(e, env, tensors, torch.float64).to(source.device).clamp(0, size - 1)
    at = at.expand([*source.shape[:-1], 1] if row else source.shape).reshape(-1)
    result = source.new_zeros(math.prod(shape[: len(shape) - row]), columns)
    values = source.reshape(-1, columns)
    if source.device.type == "cpu":
        return result.index_add_(0, at, values).reshape(list(shape))
    return result.index_put_((at,), values, accumulate=True).reshape(list(shape))  # sorts; index_add_ would be atomic
