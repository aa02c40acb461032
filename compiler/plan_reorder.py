"""Reorders as PyTorch views.

An index map that is affine in the output's axes is a strided view of the input: no copy.  If only its
inverse is affine (two axes merged into one), the result is written through a strided view of itself, or is
a plain view where the input's layout allows.  Anything else gathers, with one index tensor per input axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..ir.expr import ONE, ZERO, Const, Expr, Op, Var, free_vars, parse
from . import pages
from .plan import ReorderStep

Emit = Callable[..., str]


def reorder_lines(step: ReorderStep, emit: Emit) -> list[str]:
    """Statements that compute ``step.output`` from ``step.input``; ``emit`` prints a size expression."""
    x, y = step.input, step.output.name
    in_rank, out_rank = len(step.input_shape), len(step.output.shape)
    index, inverse = [parse(e) for e in step.index], [parse(e) for e in step.inverse]
    shape = _tuple(emit(s) for s in step.output.shape)

    names = [f"x{n}" for n in range(out_rank)]
    order = [names.index(e.name) if isinstance(e, Var) and e.name in names else -1 for e in index]
    if sorted(order) == list(range(out_rank)):
        return [f"{y} = {x}.permute({_tuple(str(order.index(n)) for n in range(out_rank))})"]
    if forward := _strides(index, out_rank):
        coefficients, start = forward
        steps = [f"{x}.stride({k})" for k in range(in_rank)]
        strides = [_dot(column, steps, emit) for column in coefficients]
        offset = _dot([ONE, *start], [f"{x}.storage_offset()", *steps], emit)
        return [f"{y} = {x}.as_strided({shape}, {_tuple(strides)}, {offset})"]
    if backward := _strides(inverse, in_rank):
        coefficients, start = backward
        sizes = step.output.shape
        steps = [_product(emit(s) for s in sizes[n + 1 :]) for n in range(out_rank)]  # strides when contiguous
        strides = [_dot(column, steps, emit) for column in coefficients]
        offset = _dot(start, steps, emit)
        return [f"{y} = merge_axes({x}, {shape}, {_tuple(strides)}, {offset})"]
    axes = [f"axis({emit(s)}, {n}, {out_rank}, device)" for n, s in enumerate(step.output.shape)]
    inner = _tuple(_tensor_text(e, names) for e in index)
    return [f"{y} = (lambda {', '.join(names)}: gather({x}, {inner}, {shape}))({', '.join(axes)})"]


def _strides(index: Sequence[Expr], rank: int) -> tuple[list[list[Expr]], list[Expr]] | None:
    """Per axis the coefficient in each index expression, and the constant terms, if all are affine and no
    stride can be negative (PyTorch has no such views)."""
    names = [f"x{n}" for n in range(rank)]
    terms = [affine(e, names) for e in index]
    if any(t is None or not all(_positive(c) for c in t[0].values()) for t in terms):
        return None
    return [[t[0].get(n, ZERO) for t in terms if t] for n in names], [t[1] for t in terms if t]


def affine(e: Expr, names: Sequence[str]) -> tuple[dict[str, Expr], Expr] | None:
    """Coefficients of ``names`` in ``e`` and the rest, or None if ``e`` is not a sum of multiples of them."""
    if not free_vars(e) & set(names):
        return {}, e
    match e:
        case Var(name):
            return {name: ONE}, ZERO
        case Op("+" | "-" as sign, (a, b)):
            left, right = affine(a, names), affine(b, names)
            if left is None or right is None:
                return None
            combine = (lambda p, q: p + q) if sign == "+" else (lambda p, q: p - q)
            keys = sorted(left[0].keys() | right[0].keys())
            return {k: combine(left[0].get(k, ZERO), right[0].get(k, ZERO)) for k in keys}, combine(left[1], right[1])
        case Op("*", (a, b)):
            if free_vars(a) & set(names):
                a, b = b, a
            inner = affine(b, names)
            if free_vars(a) & set(names) or inner is None:
                return None
            return {k: a * c for k, c in inner[0].items()}, a * inner[1]
    return None


def _positive(e: Expr) -> bool:
    """Is ``e``, which holds sizes only, surely not negative?"""
    match e:
        case Const(value):
            return value >= 0
        case Var():
            return True
        case Op("*" | "+" | "//" | "%" | "min" | "max", args):
            return all(_positive(a) for a in args)
    return False


_FUNCTIONS = {"and": "both", "or": "either", "not": "negate", "where": "choose", "min": "lesser", "max": "greater"}


def _tensor_text(e: Expr, axes: Sequence[str]) -> str:
    """Text of ``e`` for axes that are integer tensors."""
    if not isinstance(e, Op):
        return str(e)
    parts = [_tensor_text(a, axes) for a in e.args]
    if e.name in _FUNCTIONS:
        return f"{_FUNCTIONS[e.name]}({', '.join(parts)})"
    if e.name.isidentifier():
        return f"{e.name}({', '.join(parts)})"
    return f"({parts[0]} {e.name} {parts[1]})"


def _tuple(parts: Any) -> str:
    return "(" + "".join(f"{p}, " for p in parts) + ")"


def _dot(coefficients: Sequence[Expr], steps: Sequence[str], emit: Emit) -> str:
    terms = [(c, step) for c, step in zip(coefficients, steps, strict=True) if c != ZERO]
    return " + ".join(step if c == ONE else f"{emit(c)} * {step}" for c, step in terms) or "0"


def _product(parts: Any) -> str:
    return "(" + (" * ".join(parts) or "1") + ")"


# ---- what the generated lines call ----------------------------------------------------------------------


def axis(size: int, n: int, rank: int, device: torch.device) -> torch.Tensor:
    """0, 1, ... along axis ``n`` of ``rank``."""
    return torch.arange(size, device=device).view([-1 if k == n else 1 for k in range(rank)])


def gather(x: torch.Tensor, index: Sequence[Any], shape: Sequence[int]) -> torch.Tensor:
    """``x[index]`` for broadcastable index tensors."""
    if 0 in shape:
        return x.new_empty(shape)
    return x[tuple(torch.as_tensor(i, device=x.device) for i in index)].expand(shape)


def merge_axes(x: torch.Tensor, shape: Sequence[int], strides: tuple[int, ...], offset: int) -> torch.Tensor:
    """A contiguous tensor of ``shape`` whose elements are those of ``x``, which sits in it at these strides."""
    memory = pages if x.is_cpu else torch
    out = memory.empty(tuple(shape), dtype=x.dtype, device=x.device)
    if x.stride() == strides and not offset:
        return x.as_strided(out.shape, out.stride(), x.storage_offset())
    out.as_strided(x.shape, strides, offset).copy_(x)
    return out


def _tensors(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def call(*args: Any) -> torch.Tensor:
        device = next((a.device for a in args if isinstance(a, torch.Tensor)), None)
        return function(*(torch.as_tensor(a, device=device) for a in args))

    return call


HELPERS: dict[str, Callable[..., Any]] = {
    "axis": axis,
    "gather": gather,
    "merge_axes": merge_axes,
    "both": _tensors(torch.logical_and),
    "either": _tensors(torch.logical_or),
    "negate": _tensors(torch.logical_not),
    "choose": _tensors(torch.where),
    "lesser": _tensors(torch.minimum),
    "greater": _tensors(torch.maximum),
}
