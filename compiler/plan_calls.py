"""Calls to PyTorch on the CPU, as calls that give the same in less time.

A large result goes to large pages (:mod:`.pages`): to write a page for the first time takes longer than to compute what
goes there.  The maxima of a window that moves by one are maxima of a few whole tensors.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from . import pages
from .plan_memory import ARITHMETIC, UNARY, called

Kind = tuple[tuple[str, ...], str]  # the shape of a value, and its dtype
_FUNCTIONS = {
    "torch.cat": "joined",
    "torch.full": "filled",
    "torch.reshape": "reshaped",
    **{f"torch.nn.functional.{kind}_pool{n}d": f"{kind}_pool" for n in (1, 2, 3) for kind in ("max", "avg")},
}
ROUNDED = {"avg_pool", "pointwise"}  # their sums are taken in another order than PyTorch's
SLICE = 4096  # elements of a slice that are worth a call


def faster(tree: ast.Expression, results: Sequence[Kind | None], kinds: Mapping[str, Kind]) -> str | None:
    """The text of a faster call, of the functions in :data:`CALLS`; None where there is none.

    ``kinds`` are those of the tensors that the call reads; nobody reads a result that is None.
    """
    match tree.body:
        case ast.Call(ast.Attribute(ast.Name(x), "cummax"), [dim], []) if len(results) == 2 and results[1] is None:
            return f"(running_maximum({x}, {ast.unparse(dim)}), None)"
    if len(results) != 1 or results[0] is None:
        return None
    (result,) = results

    def like(*operands: ast.expr) -> str | None:
        names = [x.id for x in operands if isinstance(x, ast.Name)]
        return next((x for x in names if kinds.get(x) == result), None)

    match tree.body:
        case ast.BinOp(a, operator, b) if (name := ARITHMETIC.get(type(operator))) and (as_is := like(a, b)):
            if isinstance(a, ast.Name) and a.id in kinds:
                return f"elementwise(torch.{name}, {as_is}, {a.id}, {ast.unparse(b)})"
            if name in ("add", "mul"):
                return f"elementwise(torch.{name}, {as_is}, {ast.unparse(b)}, {ast.unparse(a)})"
        case ast.Call(ast.Attribute(ast.Name("torch"), name), [ast.Name(x)], []) if name in UNARY:
            if name != "relu" and kinds.get(x) == result:  # it has no ``out``
                return f"elementwise(torch.{name}, {x}, {x})"
        case ast.Call(ast.Attribute(ast.Name(x), "to"), [ast.Attribute(ast.Name("torch")) as dtype], []) if x in kinds:
            return f"cast({x}, {ast.unparse(dtype)})"
        case ast.Subscript(ast.Name(x), index) if x in kinds:
            return _indexed(x, index.elts if isinstance(index, ast.Tuple) else [index], kinds)
        case ast.Call(_, [ast.Name(x), ast.Name(w), bias, *rest], []) if called(tree) == "torch.nn.functional.conv2d":
            alone = [ast.unparse(a) for a in rest] == ["(1, 1)", "(0, 0)", "(1, 1)", "1"]
            return f"pointwise({x}, {w}, {ast.unparse(bias)})" if alone and kinds[w][0][2:] == ("1", "1") else None
        case ast.Call(_, arguments, keywords) if known := _FUNCTIONS.get(called(tree)):
            return f"{known}({', '.join(map(ast.unparse, [*arguments, *keywords]))})"
    return None


def _indexed(x: str, index: Sequence[ast.expr], kinds: Mapping[str, Kind]) -> str | None:
    texts = [ast.unparse(i) for i in index]
    first = next((n for n, text in enumerate(texts) if text != ":"), 0)
    if not all(text in kinds and kinds[text][1] != "bool" for text in texts[first:]) or first == len(texts):
        return None
    return f"indexed({', '.join([x, str(first), *texts[first:]])})"


def _is_large(x: torch.Tensor) -> bool:
    return x.nbytes >= pages.LEAST and x.is_contiguous()


def elementwise(function: Callable[..., torch.Tensor], like: torch.Tensor, *operands: Any) -> torch.Tensor:
    """``function(*operands)``, whose result is of the shape and dtype of ``like``."""
    if not _is_large(like):
        return function(*operands)
    return function(*operands, out=pages.empty(like.shape, dtype=like.dtype, device=like.device))


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``x.to(dtype)``."""
    if x.dtype is dtype or not x.is_contiguous() or x.numel() * dtype.itemsize < pages.LEAST:
        return x.to(dtype)
    return pages.empty(x.shape, dtype=dtype, device=x.device).copy_(x)


def joined(tensors: tuple[torch.Tensor, ...] | list[torch.Tensor], dim: int) -> torch.Tensor:
    """``torch.cat(tensors, dim)``."""
    first = tensors[0]
    alike = all(x.dtype is first.dtype and x.dim() == first.dim() for x in tensors)
    if not alike or sum(x.nbytes for x in tensors) < pages.LEAST:
        return torch.cat(tensors, dim)
    shape = list(first.shape)
    shape[dim] = sum(x.shape[dim] for x in tensors)
    return torch.cat(tensors, dim, out=pages.empty(tuple(shape), dtype=first.dtype, device=first.device))


def filled(shape: Sequence[int], value: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """``torch.full`` on the CPU."""
    return pages.empty(tuple(shape), dtype=dtype, device=device).fill_(value)


def reshaped(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """``torch.reshape(x, shape)``."""
    if x.nbytes < pages.LEAST or x.is_contiguous():
        return torch.reshape(x, shape)
    try:
        return x.view(shape)
    except RuntimeError:  # a copy
        return pages.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x).view(shape)


def indexed(x: torch.Tensor, first: int, *indices: torch.Tensor) -> torch.Tensor:
    """``x[:, ..., i, j]``: integers beside one another, after ``first`` whole dimensions."""
    place: tuple[slice | torch.Tensor, ...] = (*[slice(None)] * first, *indices)
    if any(i.dtype.itemsize < 4 for i in indices):  # true and false
        return x[place]
    shape = (*x.shape[:first], *torch.broadcast_shapes(*(i.shape for i in indices)), *x.shape[first + len(indices) :])
    if torch.Size(shape).numel() * x.itemsize < pages.LEAST:
        return x[place]
    out = pages.empty(shape, dtype=x.dtype, device=x.device)
    torch.ops.aten.index.Tensor_out(x, [*[None] * first, *indices], out=out)
    return out


def running_maximum(x: torch.Tensor, dim: int) -> torch.Tensor:
    """The values of ``x.cummax(dim)``, a slice at a time."""
    count = x.shape[dim] if x.dim() else 0
    if not count or x.numel() // count < SLICE:
        return x.cummax(dim).values
    out = torch.empty_like(x)
    out.select(dim, 0).copy_(x.select(dim, 0))
    for n in range(1, count):
        torch.maximum(out.select(dim, n - 1), x.select(dim, n), out=out.select(dim, n))
    return out


def pointwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A convolution of images with one weight for each pair of channels: a product of matrices."""
    if x.dim() != 4 or x.stride()[2:] != (x.shape[3], 1) or x.dtype is not torch.float32 or 0 in x.shape:
        result: torch.Tensor = torch.nn.functional.conv2d(x, weight, bias)
        return result
    made = torch.bmm(weight.flatten(1).expand(x.shape[0], -1, -1), x.flatten(2))
    return (made if bias is None else made.add_(bias[:, None])).unflatten(2, x.shape[2:])


Sizes = tuple[int, ...]


def max_pool(
    x: torch.Tensor, kernel_size: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil_mode: bool
) -> torch.Tensor:
    """``torch.nn.functional.max_pool2d``, or that of 1 or 3 dimensions."""
    if {*dilation} != {1} or not _moves_by_one(x, kernel_size, stride, padding):
        function = getattr(torch.nn.functional, f"max_pool{len(kernel_size)}d")
        result: torch.Tensor = function(x, kernel_size, stride, padding, dilation, ceil_mode)
        return result
    return _over_windows(torch.maximum, x, kernel_size, padding)


def avg_pool(x: torch.Tensor, kernel_size: Sizes, stride: Sizes, padding: Sizes, *options: Any) -> torch.Tensor:
    """``torch.nn.functional.avg_pool2d``, or that of 1 or 3 dimensions; the options are positional, too."""
    counts_padding = options[1:] == (True,) or not any(padding)
    exact = x.dtype in (torch.float32, torch.float64)  # as PyTorch adds up halves
    if len(options) != 2 or not counts_padding or not exact or not _moves_by_one(x, kernel_size, stride, padding):
        function = getattr(torch.nn.functional, f"avg_pool{len(kernel_size)}d")
        result: torch.Tensor = function(x, kernel_size, stride, padding, *options)
        return result
    return _over_windows(torch.add, x, kernel_size, padding).div_(math.prod(kernel_size))


def _moves_by_one(x: torch.Tensor, kernel_size: Sizes, stride: Sizes, padding: Sizes) -> bool:
    """Does a window of more than one element have a place at every element, or at all but those near the ends?"""
    centred = all(2 * pad < width for pad, width in zip(padding, kernel_size, strict=True))
    return {*stride} == {1} and max(kernel_size) > 1 and centred and x.stride(-1) == 1  # channels do not come last


def _over_windows(
    combine: Callable[..., torch.Tensor], x: torch.Tensor, kernel_size: Sizes, padding: Sizes
) -> torch.Tensor:
    """``combine`` all elements of each window, dimension by dimension; what lies beyond the ends is left out."""
    for n, (width, pad) in enumerate(zip(kernel_size, padding, strict=True)):
        if width == 1:
            continue
        dim = x.dim() - len(kernel_size) + n
        size = x.shape[dim] + 2 * pad - width + 1
        shape = (*x.shape[:dim], size, *x.shape[dim + 1 :])
        out = pages.empty(shape, dtype=x.dtype, device=x.device).copy_(x.narrow(dim, 0, size))
        for shift in range(-pad, width - pad):
            first, end = max(0, -shift), min(size, x.shape[dim] - shift)
            if shift and first < end:
                part = out.narrow(dim, first, end - first)
                combine(part, x.narrow(dim, first + shift, end - first), out=part)
        x = out
    return x


CALLS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (elementwise, cast, joined, filled, reshaped, indexed, running_maximum, pointwise, max_pool, avg_pool)
}
