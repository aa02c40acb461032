"""Reductions, normalisations and scans."""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

import torch

from ...ir.expr import Expr, const, op
from .. import shapes
from ..errors import Mismatch
from ..sizes import as_expr
from ..traced import Traced
from .registry import rule

if TYPE_CHECKING:
    from ..tracer import Tracer

Extreme = namedtuple("Extreme", ["values", "indices"])


def _reduce(t: Tracer, name: str, input: Traced, dim: Any, keepdim: bool, dtype: torch.dtype | None = None) -> Traced:
    over = shapes.dims(input.dim(), dim)
    args = {"input": input, "dim": over, "keepdim": bool(keepdim)}
    call = f"torch.{name}({{input}}, {{dim}}, keepdim={{keepdim}})"
    if not input.dim():
        call = (
            f"torch.{name}({{input}}, ())"
            if name in ("sum", "mean", "amax", "amin", "logsumexp")
            else f"torch.{name}({{input}})"
        )
    return t.emit(name, args, shapes.reduce(input.node.shape, over, keepdim), call, dtype=dtype)


@rule("sum", "mean", "amax", "amin", "logsumexp", "any", "all", probe=True)
def reduce(t: Tracer, input: Traced, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Traced:
    if dtype is not None and dtype != input.dtype:
        name = t.op
        return (
            t(getattr(torch, name), input.to(dtype), dim, keepdim)
            if dim is not None
            else t(getattr(torch, name), input.to(dtype))
        )
    return _reduce(t, t.op, input, dim, keepdim)


@rule("prod", probe=True)
def prod(t: Tracer, input: Traced, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Traced:
    if dim is None:
        over, call = tuple(range(input.dim())), "torch.prod({input})"
    else:
        over, call = (
            (shapes.dim(input.dim(), dim),),
            f"torch.prod({{input}}, {shapes.dim(input.dim(), dim)}, keepdim={{keepdim}})",
        )
    args = {"input": input, "dim": over, "keepdim": bool(keepdim)}
    return t.emit("prod", args, shapes.reduce(input.node.shape, over, keepdim), call)


@rule("max", "min", probe=True)
def extreme(t: Tracer, input: Traced, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    name = t.op
    if isinstance(dim, Traced) or other is not None:
        return t(getattr(torch, f"{name}imum"), input, dim if other is None else other)
    if dim is None:
        return _reduce(t, f"a{name}", input, None, False)
    values, indices = t.result  # type: ignore[misc]
    best = _reduce(t, f"a{name}", input, dim, keepdim, values.dtype)
    return Extreme(best, _argument(t, f"arg{name}", input, dim, keepdim, indices.dtype))


def _argument(t: Tracer, name: str, input: Traced, dim: int, keepdim: bool, dtype: torch.dtype | None = None) -> Traced:
    d = shapes.dim(input.dim(), dim)
    args = {"input": input, "dim": d, "keepdim": bool(keepdim)}
    shape = shapes.reduce(input.node.shape, (d,), keepdim)
    return t.emit(name, args, shape, f"torch.{name}({{input}}, {{dim}}, keepdim={{keepdim}})", dtype=dtype)


@rule("argmax", "argmin", probe=True)
def argument(t: Tracer, input: Traced, dim: Any = None, keepdim: bool = False) -> Traced:
    if dim is None:
        input, dim = input.reshape(-1), 0
    return _argument(t, t.op, input, dim, keepdim)


@rule("softmax", "log_softmax", probe=True)
def softmax(t: Tracer, input: Traced, dim: Any = None, _stacklevel: Any = 3, dtype: Any = None) -> Traced:
    name = t.op
    dtype = _stacklevel if isinstance(_stacklevel, torch.dtype) else dtype
    if dtype is not None and dtype != input.dtype:
        return t(getattr(torch, name), input.to(dtype), dim)
    if dim is None:  # PyTorch's old default
        dim = 0 if input.dim() in (0, 1, 3) else 1
    args = {"input": input, "dim": shapes.dim(input.dim(), dim)}
    return t.emit(name, args, input.node.shape, f"torch.{name}({{input}}, {{dim}})")


@rule("softmin", probe=True)
def softmin(t: Tracer, input: Traced, dim: Any = None, _stacklevel: Any = 3, dtype: Any = None) -> Traced:
    return t(torch.nn.functional.softmax, t(torch.neg, input), dim, dtype=dtype)


@rule("cumsum", "cumprod", "logcumsumexp", probe=True)
def scan(t: Tracer, input: Traced, dim: int, *, dtype: Any = None) -> Traced:
    if dtype is not None and dtype != input.dtype:
        return t(getattr(torch, t.op), input.to(dtype), dim)
    args = {"input": input, "dim": shapes.dim(input.dim(), dim)}
    return t.emit(t.op, args, input.node.shape, f"torch.{t.op}({{input}}, {{dim}})")


@rule("normalize", probe=True)
def normalize(t: Tracer, input: Traced, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Traced:
    args = {"input": input, "p": p, "dim": dim, "eps": eps}
    return t.emit("normalize", args, input.node.shape, "torch.nn.functional.normalize({input}, {p}, {dim}, {eps})")


@rule("layer_norm", "rms_norm")
def layer_norm(
    t: Tracer, input: Traced, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: Any = None
) -> Traced:
    sizes = tuple(as_expr(e) for e in normalized_shape)
    for have, want in zip(input.node.shape[-len(sizes) :], sizes, strict=True):
        t.graph.unify(have, want)
    args = {"input": input, "normalized_shape": sizes, "weight": weight, "eps": eps}
    holes = "{input}, {normalized_shape}, weight={weight}, eps={eps}"
    if t.op == "layer_norm":
        args["bias"], holes = bias, holes + ", bias={bias}"
    return t.emit(t.op, args, input.node.shape, f"torch.nn.functional.{t.op}({holes})")


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average(
    t: Tracer, input: Traced, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: Any = None,
) -> Traced:  # fmt: skip
    name, rank = t.op, int(t.op[-2])
    if input.dim() not in (rank + 1, rank + 2):
        raise Mismatch(f"{name} takes a tensor of {rank + 1} or {rank + 2} dimensions, not {input.dim()}")

    def each(x: Any) -> list[Expr]:
        values = list(x) if isinstance(x, tuple | list) else [x]
        return [as_expr(e) for e in (values * rank if len(values) == 1 else values)]

    widths, pads = each(kernel_size), each(padding)
    steps = widths if stride is None or stride in ((), []) else each(stride)
    shape = list(input.node.shape)
    for d, width, step, pad in zip(range(-rank, 0), widths, steps, pads, strict=True):
        slack = step - 1 if ceil_mode else const(0)
        shape[d] = shapes.window_count(shape[d], width, step, pad, pad + slack)
        if t.graph.hint(shape[d]) < 1:
            raise Mismatch(f"a window of {width} does not fit in {input.node.shape[d]}")
        if ceil_mode:  # the last window must start inside
            last = t.graph.assume(op("<", (shape[d] - 1) * step, input.node.shape[d] + pad))
            shape[d] = shape[d] if last else shape[d] - 1
    args: dict[str, Any] = {"input": input, "width": tuple(widths), "step": tuple(steps), "pad": tuple(pads)}
    args |= {"ceil_mode": bool(ceil_mode), "count_include_pad": bool(count_include_pad)}
    holes = ", ".join(f"{{{k}}}" for k in args) + ("" if divisor_override is None else f", {int(divisor_override)}")
    return t.emit(name, args, shape, f"torch.nn.functional.{name}({holes})", dtype=input.dtype)
