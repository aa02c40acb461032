"""Ops that move elements: views, concatenations, rolls, padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...ir.expr import ONE, Expr, ceildiv, const, op
from .. import shapes
from ..sizes import as_expr
from ..smooth import is_smooth
from ..traced import Traced
from .registry import rule

if TYPE_CHECKING:
    from ..tracer import Tracer


def flat(values: Any) -> list[Any]:
    """``f(1, 2)`` and ``f((1, 2))`` are the same call."""
    return list(values[0]) if len(values) == 1 and isinstance(values[0], tuple | list) else list(values)


def permuted(t: Tracer, input: Traced, order: list[int]) -> Traced:
    if order == list(range(len(order))):
        return t.view(input, Traced(t, input.node))
    shape = [input.node.shape[d] for d in order]
    return t.view(
        input, t.emit("permute", {"input": input, "dims": tuple(order)}, shape, "torch.permute({input}, {dims})")
    )


@rule("permute")
def permute(t: Tracer, input: Traced, *dims: Any) -> Traced:
    return permuted(t, input, [shapes.dim(input.dim(), d) for d in flat(dims)])


@rule("transpose")
def transpose(t: Tracer, input: Traced, dim0: int, dim1: int) -> Traced:
    order = list(range(input.dim()))
    if order:
        a, b = shapes.dim(len(order), dim0), shapes.dim(len(order), dim1)
        order[a], order[b] = order[b], order[a]
    return permuted(t, input, order)


@rule("mT", "mH", "adjoint")
def matrix_transpose(t: Tracer, input: Traced) -> Traced:
    return transpose(t, _conjugated(t, input), -2, -1)


@rule("T", "t", "H")
def reverse_dims(t: Tracer, input: Traced) -> Traced:
    return permuted(t, _conjugated(t, input), list(reversed(range(input.dim()))))


def _conjugated(t: Tracer, input: Traced) -> Traced:
    """What ``mH``, ``H`` and ``adjoint`` do to complex tensors besides transposing them."""
    return t(torch.conj, input) if input.dtype.is_complex and t.op in ("mH", "H", "adjoint") else input


@rule("movedim")
def movedim(t: Tracer, input: Traced, source: Any, destination: Any) -> Traced:
    rank = input.dim()
    src = [shapes.dim(rank, d) for d in ([source] if isinstance(source, int) else source)]
    dst = [shapes.dim(rank, d) for d in ([destination] if isinstance(destination, int) else destination)]
    rest = iter(d for d in range(rank) if d not in src)
    return permuted(t, input, [src[dst.index(n)] if n in dst else next(rest) for n in range(rank)])


def reshaped(t: Tracer, input: Traced, wanted: list[Any], shares: bool = False) -> Traced:
    shape = shapes.reshape(t.graph, input.node.shape, [as_expr(e) for e in wanted])
    args = {"input": input, "shape": shape}
    result = t.emit("reshape", args, shape, "torch.reshape({input}, {shape})")
    return t.view(input, result, shares or _dense(input))


def _dense(x: Traced) -> bool:
    """Is ``x`` surely contiguous?"""
    while x.base is not None:
        if x._view is not None and x._view.op not in ("reshape", "unsqueeze", "squeeze"):
            return False
        x = x.base
    return x.packed


@rule("reshape", "view")
def reshape(t: Tracer, input: Traced, *shape: Any, size: Any = None) -> Traced:
    view = t.op == "view"
    wanted = flat(shape) if size is None else list(size)
    if wanted and isinstance(wanted[0], torch.dtype):
        return t.emit(
            "view_dtype",
            {"input": input, "dtype": wanted[0]},
            input.node.shape,
            "{input}.view({dtype})",
            dtype=wanted[0],
        )
    return reshaped(t, input, wanted, view)


@rule("view_as", "reshape_as")
def view_as(t: Tracer, input: Traced, other: Traced) -> Traced:
    return reshaped(t, input, list(other.node.shape), t.op == "view_as")


@rule("flatten", "ravel")
def flatten(t: Tracer, input: Traced, start_dim: int = 0, end_dim: int = -1) -> Traced:
    a, b = shapes.dim(input.dim(), start_dim), shapes.dim(input.dim(), end_dim)
    s = input.node.shape
    return reshaped(t, input, [*s[:a], shapes.product(s[a : b + 1]), *s[b + 1 :]])


@rule("unflatten")
def unflatten(t: Tracer, input: Traced, dim: int, sizes: Any) -> Traced:
    d, s = shapes.dim(input.dim(), dim), input.node.shape
    inner = shapes.reshape(t.graph, (s[d],), [as_expr(e) for e in sizes])
    return reshaped(t, input, [*s[:d], *inner, *s[d + 1 :]], True)


@rule("unsqueeze")
def unsqueeze(t: Tracer, input: Traced, dim: int) -> Traced:
    d, s = shapes.dim(input.dim() + 1, dim), input.node.shape
    args = {"input": input, "dim": d}
    return t.view(input, t.emit("unsqueeze", args, [*s[:d], ONE, *s[d:]], "torch.unsqueeze({input}, {dim})"))


@rule("squeeze")
def squeeze(t: Tracer, input: Traced, dim: Any = None) -> Traced:
    s = input.node.shape
    gone = tuple(d for d in shapes.dims(input.dim(), dim) if s and t.graph.assume(op("==", s[d], 1)))
    if not gone:
        return t.view(input, Traced(t, input.node))
    shape = [e for d, e in enumerate(s) if d not in gone]
    return t.view(input, t.emit("squeeze", {"input": input, "dim": gone}, shape, "torch.squeeze({input}, {dim})"))


def expanded(t: Tracer, input: Traced, wanted: list[Expr]) -> Traced:
    s = (ONE,) * (len(wanted) - input.dim()) + input.node.shape
    shape = [have if want == const(-1) else want for have, want in zip(s, wanted, strict=True)]
    for have, want in zip(s, shape, strict=True):
        if t.graph.hint(have) == 1 != t.graph.hint(want):
            t.graph.assume(op("==", have, 1))
        elif have != ONE:
            t.graph.unify(have, want)
    shape = [t.graph.canon(e) for e in shape]
    if tuple(shape) == tuple(t.graph.canon(e) for e in input.node.shape):
        return t.view(input, Traced(t, input.node))
    args = {"input": input, "shape": tuple(shape)}
    return t.view(input, t.emit("expand", args, shape, "torch.broadcast_to({input}, {shape})"))


@rule("expand", "broadcast_to")
def expand(t: Tracer, input: Traced, *sizes: Any, size: Any = None) -> Traced:
    return expanded(t, input, [as_expr(e) for e in (flat(sizes) if size is None else size)])


@rule("expand_as")
def expand_as(t: Tracer, input: Traced, other: Traced) -> Traced:
    return expanded(t, input, list(other.node.shape))


@rule("broadcast_tensors")
def broadcast_tensors(t: Tracer, *tensors: Any) -> list[Traced]:
    xs = flat(tensors)
    shape = [t.number(e) for e in shapes.broadcast(t.graph, *(x.node.shape for x in xs))]
    return [t(torch.broadcast_to, x, shape) for x in xs]


@rule("meshgrid")
def meshgrid(t: Tracer, *tensors: Any, indexing: str = "ij") -> tuple[Traced, ...]:
    xs = flat(tensors)
    if indexing == "xy" and len(xs) > 1:
        second, first, *rest = meshgrid(t, xs[1], xs[0], *xs[2:])
        return first, second, *rest
    shape = [t.number(x.node.shape[0] if x.dim() else ONE) for x in xs]
    lifted = (t(torch.reshape, x, [-1 if n == k else 1 for k in range(len(xs))]) for n, x in enumerate(xs))
    return tuple(t(torch.broadcast_to, x, shape) for x in lifted)


@rule("repeat", "tile")
def repeat(t: Tracer, input: Traced, *repeats: Any, dims: Any = None) -> Traced:
    counts = [as_expr(r) for r in (flat(repeats) if dims is None else dims)]
    counts = [ONE] * (input.dim() - len(counts)) + counts
    s = (ONE,) * (len(counts) - input.dim()) + input.node.shape
    args = {"input": input, "repeats": tuple(counts)}
    return t.emit("repeat", args, [a * n for a, n in zip(s, counts, strict=True)], "{input}.repeat({repeats})")


_COUNTED = "torch.repeat_interleave({input}, {repeats}, {dim}, output_size={output_size})"


@rule("repeat_interleave")
def repeat_interleave(t: Tracer, input: Traced, repeats: Any, dim: Any = None, *, output_size: Any = None) -> Traced:
    if dim is None:
        input, dim = input.reshape(-1), 0
    d, s = shapes.dim(input.dim(), dim), list(input.node.shape)
    if isinstance(repeats, Traced):
        if output_size is None:
            input._needs_data("repeat_interleave with a tensor of counts", "give output_size, or one count for all")
        s[d] = as_expr(output_size)
        args = {"input": input, "repeats": repeats, "dim": d, "output_size": s[d]}
        return t.emit("repeat_interleave", args, s, _COUNTED)
    s[d] = s[d] * as_expr(repeats)
    args = {"input": input, "repeats": repeats, "dim": d}
    return t.emit("repeat_interleave", args, s, "torch.repeat_interleave({input}, {repeats}, {dim})")


@rule("cat")
def cat(t: Tracer, tensors: Any, dim: int = 0) -> Traced:
    xs = [x for x in tensors if not (x.dim() == 1 and x.node.shape[0] == const(0))] or list(tensors)
    d, first = shapes.dim(xs[0].dim(), dim), list(xs[0].node.shape)
    for x in xs[1:]:
        for n, e in enumerate(x.node.shape):
            first[n] = first[n] + e if n == d else t.graph.unify(first[n], e)
    dtype = xs[0].dtype
    for x in xs:
        dtype = torch.promote_types(dtype, x.dtype)
    return t.emit("cat", {"tensors": tuple(xs), "dim": d}, first, "torch.cat({tensors}, {dim})", dtype=dtype)


@rule("stack")
def stack(t: Tracer, tensors: Any, dim: int = 0) -> Traced:
    d = shapes.dim(tensors[0].dim() + 1, dim)
    return t(torch.cat, [t(torch.unsqueeze, x, d) for x in tensors], d)


@rule("hstack", "vstack")
def hstack(t: Tracer, tensors: Any) -> Traced:
    name, xs = t.op, list(tensors)
    if name == "vstack":
        return t(torch.cat, [x[None] if x.dim() < 2 else x for x in xs], 0)
    return t(torch.cat, xs, 0 if xs[0].dim() < 2 else 1)


@rule("roll")
def roll(t: Tracer, input: Traced, shifts: Any, dims: Any = None) -> Traced:
    if dims is None or dims == ():
        return t(torch.roll, input.reshape(-1), shifts, 0).reshape(input.shape)
    by = tuple(shifts) if isinstance(shifts, tuple | list) else (shifts,)
    over = tuple(shapes.dim(input.dim(), d) for d in ((dims,) if isinstance(dims, int) else dims))
    args = {"input": input, "shifts": by, "dims": over}
    return t.emit("roll", args, input.node.shape, "torch.roll({input}, {shifts}, {dims})")


@rule("flip", "fliplr", "flipud")
def flip(t: Tracer, input: Traced, *dims: Any) -> Traced:
    over = {"fliplr": (1,), "flipud": (0,)}.get(t.op) or shapes.dims(input.dim(), flat(dims) or [])
    return t.emit("flip", {"input": input, "dims": over}, input.node.shape, "torch.flip({input}, {dims})")


@rule("tril", "triu")
def tril(t: Tracer, input: Traced, diagonal: Any = 0) -> Traced:
    return t.emit(
        t.op, {"input": input, "diagonal": diagonal}, input.node.shape, f"torch.{t.op}({{input}}, {{diagonal}})"
    )


@rule("pad")
def pad(t: Tracer, input: Traced, pad: Any, mode: str = "constant", value: Any = None) -> Traced:
    s = list(input.node.shape)
    for n in range(len(pad) // 2):
        s[-1 - n] = s[-1 - n] + (as_expr(pad[2 * n]) + as_expr(pad[2 * n + 1]))
    args = {"input": input, "pad": tuple(pad), "value": 0 if value is None else value}
    if mode == "constant":
        return t.emit("pad", args, s, "torch.nn.functional.pad({input}, {pad}, value={value})")
    args["value"] = mode
    return t.emit(f"pad_{mode}", args, s, "torch.nn.functional.pad({input}, {pad}, mode={value})")


@rule("unfold")
def unfold(t: Tracer, input: Traced, dimension: int, size: Any, step: Any) -> Traced:
    d, s = shapes.dim(input.dim(), dimension), list(input.node.shape)
    width, by = as_expr(size), as_expr(step)
    s[d] = shapes.window_count(s[d], width, by)
    args = {"input": input, "dim": d, "size": size, "step": step}
    return t.view(input, t.emit("unfold", args, [*s, width], "{input}.unfold({dim}, {size}, {step})"))


@rule("chunk")
def chunk(t: Tracer, input: Traced, chunks: int, dim: int = 0) -> Any:
    size = input.node.shape[shapes.dim(input.dim(), dim)]
    return split(t, input, t.number(ceildiv(size, as_expr(chunks))), dim)


@rule("tensor_split")
def tensor_split(
    t: Tracer,
    input: Traced,
    indices_or_sections: Any = None,
    dim: int = 0,
    *,
    indices: Any = None,
    sections: Any = None,
) -> Any:
    given = next(x for x in (indices_or_sections, indices, sections) if x is not None)
    d = shapes.dim(input.dim(), dim)
    if not isinstance(given, tuple | list):
        size, parts = t.number(input.node.shape[d]), int(given)
        each, longer = size // parts, int(size % parts)
        given = [n * each + min(n, longer) for n in range(1, parts)]
    ends = zip([None, *given], [*given, None], strict=True)
    return tuple(input[(*[slice(None)] * d, slice(a, b))] for a, b in ends)


@rule("split", "split_with_sizes")
def split(
    t: Tracer,
    input: Traced,
    split_size_or_sections: Any = None,
    dim: int = 0,
    *,
    split_size: Any = None,
    split_sizes: Any = None,
) -> Any:
    d = shapes.dim(input.dim(), dim)
    size, parts = (
        input.node.shape[d],
        next(x for x in (split_size_or_sections, split_size, split_sizes) if x is not None),
    )
    if isinstance(parts, tuple | list):
        t.graph.unify(size, sum((as_expr(p) for p in parts), const(0)))
        ends, pieces = const(0), []
        for part in parts:
            pieces.append((ends, ends + as_expr(part)))
            ends = ends + as_expr(part)
    else:
        width = as_expr(parts)
        count = t.graph.specialise(ceildiv(size, width))
        if t.graph.assume(op("==", size % width, 0)):
            pieces = [(width * n, width * (n + 1)) for n in range(count)]
        else:
            pieces = [(width * n, width * (n + 1) if n < count - 1 else size) for n in range(count)]
    whole = (slice(None),) * d
    return tuple(input[(*whole, slice(t.number(a), t.number(b)))] for a, b in pieces)


@rule("unbind")
def unbind(t: Tracer, input: Traced, dim: int = 0) -> Any:
    d = shapes.dim(input.dim(), dim)
    return tuple(input[(*(slice(None),) * d, n)] for n in range(t.graph.specialise(input.node.shape[d])))


@rule("clone", "contiguous", "detach", "alias", "lift_fresh", "positive")
def same(t: Tracer, input: Traced, **options: Any) -> Traced:
    result = Traced(t, input.node)
    if t.op == "detach" and is_smooth(input.dtype):
        t.cut(input.node)
    if t.op == "clone":
        result.packed = _dense(input)
        return result
    return t.view(input, result, t.op != "contiguous" or _dense(input))
