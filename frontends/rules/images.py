"""Pools, sizes and patches of images: PyTorch computes them; what is known here is how many positions they give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...ir.expr import Expr, const
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
    t: Tracer, input: Traced, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> list[Expr]:
    rank = int(t.op[-2])
    if input.dim() not in (rank + 1, rank + 2):
        raise Mismatch(f"{t.op} takes a tensor of {rank + 1} or {rank + 2} dimensions, not {input.dim()}")
    if ceil_mode:
        raise UnsupportedOpError(f"{with_text(t.location)}: ceil_mode of {t.op}; pad the input instead")
    shape = list(input.node.shape)
    steps = _each(stride or kernel, rank)
    for n, (k, by, pad, gap) in enumerate(
        zip(_each(kernel, rank), steps, _each(padding, rank), _each(dilation, rank), strict=True)
    ):
        shape[n - rank] = shapes.window_count(shape[n - rank], (k - 1) * gap + 1, by, pad, pad)
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
    shape, rank = _pooled(t, input, kernel_size, stride, padding, dilation, ceil_mode), int(t.op[-2])
    return _call(
        t, input, shape, kernel_size=_plain(kernel_size, rank), stride=_plain(stride or kernel_size, rank),
        padding=_plain(padding, rank), dilation=_plain(dilation, rank),
    )  # fmt: skip


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
