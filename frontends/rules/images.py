"""Pools, sizes and patches of images: PyTorch computes them; what is known here is how many positions they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...ir.expr import Expr, const, op
from .. import shapes
from ..errors import Mismatch, UnsupportedOpError
from ..locate import with_text
from ..sizes import as_expr
from ..traced import Traced
from .registry import rule

if TYPE_CHECKING:
    from ..tracer import Tracer


def _each(x: Any, rank: int) -> list[Expr]:
    """An argument for every axis: one number for all, or a tuple."""
    values = list(x) if isinstance(x, tuple | list) else [x]
    return [as_expr(e) for e in (values * rank if len(values) == 1 else values)]


def _pooled(
    t: Tracer, input: Traced, kernel: Sequence[Expr], stride: Sequence[Expr], padding: Sequence[Expr], ceil_mode: bool
) -> list[Expr]:
    """The shape that a pool gives; ``kernel`` counts the positions that a window spans."""
    rank = len(kernel)
    if input.dim() not in (rank + 1, rank + 2):
        raise Mismatch(f"{t.op} takes a tensor of {rank + 1} or {rank + 2} dimensions, not {input.dim()}")
    shape = list(input.node.shape)
    for d, width, step, pad in zip(range(-rank, 0), kernel, stride, padding, strict=True):
        size = shape[d]
        shape[d] = shapes.window_count(size, width, step, pad, pad + (step - 1 if ceil_mode else const(0)))
        if t.graph.hint(shape[d]) < 1:
            raise Mismatch(f"a window of {width} does not fit in {size}")
        if ceil_mode:  # the last window must start inside
            inside = t.graph.assume(op("<", (shape[d] - 1) * step, size + pad))
            shape[d] = shape[d] if inside else shape[d] - 1
    return shape


def _call(t: Tracer, input: Traced, shape: list[Expr], op: str | None = None, **args: Any) -> Traced:
    op = op or t.op
    holes = ", ".join(f"{k}={{{k}}}" for k in args)
    return t.emit(t.op, {"input": input, **args}, shape, f"torch.nn.functional.{op}({{input}}, {holes})",
                  dtype=input.dtype)  # fmt: skip


def _plain(x: Any, rank: int) -> tuple[Expr, ...]:
    return tuple(_each(x, rank))


@rule("max_pool1d", "max_pool2d", "max_pool3d")
def maximum(
    t: Tracer, input: Traced, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Traced:  # fmt: skip
    if return_indices:
        raise UnsupportedOpError(f"{with_text(t.location)}: return_indices of {t.op}; call it outside and pass them")
    rank = int(t.op[-2])
    widths, steps, pads, gaps = (_each(x, rank) for x in (kernel_size, stride or kernel_size, padding, dilation))
    spans = [(width - 1) * gap + 1 for width, gap in zip(widths, gaps, strict=True)]
    return _call(
        t, input, _pooled(t, input, spans, steps, pads, ceil_mode), kernel_size=tuple(widths), stride=tuple(steps),
        padding=tuple(pads), dilation=tuple(gaps), ceil_mode=bool(ceil_mode),
    )  # fmt: skip


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average(
    t: Tracer, input: Traced, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: Any = None,
) -> Traced:  # fmt: skip
    rank = int(t.op[-2])
    widths, steps, pads = (_each(x, rank) for x in (kernel_size, stride or kernel_size, padding))
    args: dict[str, Any] = {"input": input, "width": tuple(widths), "step": tuple(steps), "pad": tuple(pads)}
    args |= {"ceil_mode": bool(ceil_mode), "count_include_pad": bool(count_include_pad)}
    holes = ", ".join(f"{{{k}}}" for k in args) + ("" if divisor_override is None else f", {int(divisor_override)}")
    shape = _pooled(t, input, widths, steps, pads, ceil_mode)
    return t.emit(t.op, args, shape, f"torch.nn.functional.{t.op}({holes})", dtype=input.dtype)


@rule("interpolate")
def interpolate(
    t: Tracer, input: Traced, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: Any = None, recompute_scale_factor: Any = None, antialias: bool = False,
) -> Traced:  # fmt: skip
    rank = input.dim() - 2
    shape = list(input.node.shape)
    if size is not None:
        shape[2:] = _each(size, rank)
        where: dict[str, Any] = {"size": tuple(shape[2:])}
    else:
        scales = list(scale_factor) if isinstance(scale_factor, tuple | list) else [scale_factor] * rank
        if any(not isinstance(s, int) and not float(s).is_integer() for s in scales):
            raise UnsupportedOpError(f"{with_text(t.location)}: interpolate by a fraction; give size= instead")
        shape[2:] = [n * int(s) for n, s in zip(shape[2:], scales, strict=True)]
        where = {"scale_factor": tuple(float(s) for s in scales)}
    return _call(t, input, shape, mode=mode, align_corners=align_corners, antialias=antialias, **where)


@rule("im2col")
def patches(t: Tracer, input: Traced, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Traced:
    """``torch.nn.functional.unfold``, whose name a method of tensors has as well."""
    *batch, channels, _, _ = input.node.shape
    count: Expr = const(1)
    for axis, (k, gap, pad, by) in enumerate(
        zip(*(_each(x, 2) for x in (kernel_size, dilation, padding, stride)), strict=True)
    ):
        channels = channels * k
        count = count * shapes.window_count(input.node.shape[axis - 2], (k - 1) * gap + 1, by, pad, pad)
    return _call(
        t, input, [*batch, channels, count], "unfold", kernel_size=_plain(kernel_size, 2), dilation=_plain(dilation, 2),
        padding=_plain(padding, 2), stride=_plain(stride, 2),
    )  # fmt: skip


@rule("fold")
def fold(
    t: Tracer, input: Traced, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Traced:
    """The sum of patches where they overlap."""
    *batch, columns, _ = input.node.shape
    height, width = _each(output_size, 2)
    kernel = _each(kernel_size, 2)
    channels = shapes.quotient(t.graph, [columns], kernel)
    return _call(
        t, input, [*batch, channels, height, width], output_size=(height, width), kernel_size=tuple(kernel),
        dilation=_plain(dilation, 2), padding=_plain(padding, 2), stride=_plain(stride, 2),
    )  # fmt: skip
