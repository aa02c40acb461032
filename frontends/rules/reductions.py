"""Reductions, normalisations and scans."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from ...ir.expr import Const, Expr
from .. import shapes
from ..graph import Input, Node
from ..sizes import as_expr
from ..smooth import is_smooth
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
    few = _of_few(t, t.op, input, dim, keepdim)
    return _reduce(t, t.op, input, dim, keepdim) if few is None else few


_TERM_BY_TERM: dict[str, Callable[..., Any]] = {
    "any": torch.logical_or,
    "all": torch.logical_and,
    "amax": torch.maximum,
    "amin": torch.minimum,
    "sum": torch.add,
}
MOST_TERMS = 16  # of coordinates, or of conditions


def _of_few(t: Tracer, name: str, input: Traced, dim: Any, keepdim: bool) -> Traced | None:
    """The reduction of a few terms, such as coordinates or conditions, term by term, as masks are made.

    None where there are many, or where they come of an argument's numbers, which PyTorch reduces faster.
    """
    if dim is None or name not in _TERM_BY_TERM or not input.dim():
        return None
    over = shapes.dims(input.dim(), dim)
    extent = input.node.shape[over[0]] if len(over) == 1 else None
    if not _is_few(extent) or _of_numbers(input.node):
        return None
    dtype = input.dtype
    if name in ("any", "all") and dtype != torch.bool:
        input = t(torch.ne, input, 0)
    elif name == "sum" and not dtype.is_floating_point:
        input = input.to(torch.int64)
    elif name == "sum" and extent.value > 3:  # in which order PyTorch adds is its own
        return None
    terms = [t(torch.select, input, over[0], n) for n in range(int(extent.value))]
    found = functools.reduce(lambda x, y: t(_TERM_BY_TERM[name], x, y), terms)
    return t(torch.unsqueeze, found, over[0]) if keepdim else found


def _is_few(extent: Expr | None) -> TypeGuard[Const]:
    return isinstance(extent, Const) and 0 < extent.value <= MOST_TERMS


def _of_numbers(node: Node) -> bool:
    """Is the value made of floating-point numbers of an argument?"""
    waiting, seen = [node], {node}
    while waiting:
        node = waiting.pop()
        if isinstance(node, Input) and is_smooth(node.dtype):
            return True
        more = set(node.inputs) - seen
        seen |= more
        waiting += more
    return False


@rule("isin", probe=True)
def isin(t: Tracer, elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Traced:
    """With a few numbers to test for, a comparison with each, as masks are made."""
    if (
        isinstance(elements, Traced)
        and isinstance(test_elements, Traced)
        and test_elements.dim() == 1
        and _is_few(test_elements.node.shape[0])
        and not (_of_numbers(elements.node) or _of_numbers(test_elements.node))
    ):
        found = t(torch.any, t(torch.eq, elements[..., None], test_elements), -1)
        return t(torch.logical_not, found) if invert else found
    args = {"elements": elements, "test_elements": test_elements, "invert": bool(invert)}
    shape = elements.node.shape if isinstance(elements, Traced) else ()
    return t.emit("isin", args, shape, "torch.isin({elements}, {test_elements}, invert={invert})", dtype=torch.bool)


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
    best = _of_few(t, f"a{name}", input, dim, keepdim)
    if best is None:
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


@rule("cosine_similarity", probe=True)
def cosine_similarity(t: Tracer, x1: Traced, x2: Traced, dim: int = 1, eps: float = 1e-8) -> Traced:
    """The inner product of two normalised tensors."""
    a, b = (t(torch.nn.functional.normalize, x, 2.0, dim, eps) for x in (x1, x2))
    return t(torch.sum, t(torch.mul, a, b), dim)


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
