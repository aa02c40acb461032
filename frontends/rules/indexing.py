"""``x[...]``, gathers, and writes of part of a tensor."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from ...ir.expr import Expr, const, op
from .. import shapes
from ..errors import Mismatch, MutationError
from ..graph import Node
from ..locate import with_text
from ..sizes import Size, as_expr, hint_of
from ..traced import Traced
from .reductions import MOST_TERMS
from .registry import early, rule
from .unknown import unknown

if TYPE_CHECKING:
    from ..tracer import Tracer

Step = tuple[str, tuple[Any, ...]]  # one view on the way from a tensor to the part that an index names


def _items(input: Traced, index: Any) -> list[Any]:
    """The index as a list without ``...``."""
    items = list(index) if isinstance(index, tuple) else [index]
    used = sum(1 for x in items if x is not None and x is not Ellipsis and not _is_mask(x))
    used += sum(x.dim() for x in items if _is_mask(x))
    if used > input.dim():
        raise Mismatch(f"{used} indices for a tensor of {input.dim()} dimensions")
    dots = next((n for n, x in enumerate(items) if x is Ellipsis), len(items))
    return [*items[:dots], *[slice(None)] * (input.dim() - used), *items[dots + 1 :]]


def _is_mask(x: Any) -> bool:
    return isinstance(x, Traced) and x.dtype == torch.bool


@early("__getitem__", "select", "narrow", "slice")
def getitem(
    t: Tracer,
    input: Traced,
    *rest: Any,
    dim: int | None = None,
    index: Any = None,
    start: Any = None,
    length: Any = None,
) -> Traced:
    if t.op != "__getitem__":
        more = [x for x in (dim, index, start, length) if x is not None]
        d, *bounds = [*rest, *more]
        before = (slice(None),) * shapes.dim(input.dim(), d)
        if t.op == "select":
            return input[(*before, bounds[0])]
        begin = bounds[0] if t.op == "slice" or hint_of(bounds[0]) >= 0 else bounds[0] + input.shape[d]
        end = begin + bounds[1] if t.op == "narrow" else bounds[1]
        return input[(*before, slice(begin, end, *bounds[2:]))]
    (index,) = rest
    x, indices = _basic(t, input, _items(input, index))
    return x if not indices else _gathered(t, x, indices)


def _basic(
    t: Tracer, input: Traced, items: list[Any], steps: list[tuple[Traced, Step]] | None = None
) -> tuple[Traced, dict[int, Traced]]:
    """Apply numbers, slices and None; tensors come back by the dimension that they index."""
    x, d, indices = input, 0, {}
    for item in items:
        before = x
        step: Step | None = None
        if item is None:
            x, step = t(torch.unsqueeze, x, d), ("unsqueeze", (d,))
            d += 1
        elif isinstance(item, bool):
            raise IndexError("a Python bool as an index")
        elif isinstance(item, int | torch.SymInt):
            x, where = _select(t, x, d, as_expr(item))
            step = ("select", (d, where))
        elif isinstance(item, slice):
            x, bounds = _slice(t, x, d, item)
            step = ("slice", (d, *bounds)) if bounds else None
            d += 1
        else:
            index = (
                item
                if isinstance(item, Traced)
                else t(torch.tensor, list(item) if isinstance(item, range) else item, device=t.device)
            )
            if _is_mask(index):
                index._needs_data(
                    "indexing with a boolean mask",
                    "use torch.where, masked_fill or x[mask] = number, which keep the shape",
                )
            indices[d] = index
            d += 1
        if steps is not None and step is not None:
            steps.append((before, step))
    return x, indices


def _place(t: Tracer, x: Traced, d: int, at: Expr) -> Expr:
    """An index of a dimension, counted from its beginning."""
    size = x.node.shape[d]
    where = shapes._plus(size, at) if t.graph.assume(op("<", at, 0)) else at
    if t.graph.hint(where) < 0 or not t.graph.assume(op("<", where, size)):
        raise Mismatch(f"index {at} is outside dimension {d} of size {size}")
    return where


def _select(t: Tracer, x: Traced, d: int, at: Expr) -> tuple[Traced, Expr]:
    where = _place(t, x, d, at)
    shape = [e for n, e in enumerate(x.node.shape) if n != d]
    args = {"input": x, "dim": d, "index": where}
    return t.view(x, t.emit("select", args, shape, "torch.select({input}, {dim}, {index})")), where


def _slice(t: Tracer, x: Traced, d: int, s: slice) -> tuple[Traced, tuple[Any, ...]]:
    step = 1 if s.step is None else int(s.step)
    start, stop = (None if b is None else as_expr(b) for b in (s.start, s.stop))
    size = x.node.shape[d]
    lo, hi, length = shapes.clamp_slice(t.graph, size, start, stop, step)
    if lo == const(0) and hi == t.graph.canon(size) and step == 1:
        return (x, ()) if x.base is not None else (t.view(x, Traced(t, x.node)), ())
    shape = list(x.node.shape)
    shape[d] = length
    args = {"input": x, "dim": d, "start": lo, "stop": hi, "step": step}
    call = "{input}[" + ":, " * d + "{start}:{stop}:{step}]"
    return t.view(x, t.emit("slice", args, shape, call)), (lo, hi, step)


def _gathered(t: Tracer, x: Traced, indices: dict[int, Traced]) -> Traced:
    """Index with tensors, NumPy's way: their common shape stands where they are adjacent, else in front."""
    at = sorted(indices)
    common = shapes.broadcast(t.graph, *(indices[d].node.shape for d in at))
    rest = [e for d, e in enumerate(x.node.shape) if d not in indices]
    front = at[0] if at == list(range(at[0], at[-1] + 1)) else 0
    shape = [*rest[:front], *common, *rest[front:]]
    full = tuple(indices.get(d) for d in range(x.dim()))
    call = "{input}[" + ", ".join(f"{{i{d}}}" if d in indices else ":" for d in range(at[-1] + 1)) + "]"
    result = t.emit(
        "index",
        {"input": x, "indices": full} | {f"i{d}": i for d, i in indices.items()},
        shape,
        call,
        dtype=x.node.dtype,
    )
    result.node.args = {k: result.node.args[k] for k in ("input", "indices")}
    return result


@rule("index")
def index(t: Tracer, input: Traced, indices: Any) -> Traced:
    return input[tuple(slice(None) if i is None else i for i in indices)]


@rule("index_select")
def index_select(t: Tracer, input: Traced, dim: int, index: Traced) -> Traced:
    return input[(*(slice(None),) * shapes.dim(input.dim(), dim), index)]


@rule("embedding")
def embedding(t: Tracer, input: Traced, weight: Traced, *args: Any, **kwargs: Any) -> Traced:
    return weight[input]


@rule("gather")
def gather(t: Tracer, input: Traced, dim: int, index: Traced, *, sparse_grad: bool = False) -> Traced:
    args = {"input": input, "dim": shapes.dim(input.dim(), dim), "index": index}
    return t.emit("gather", args, index.node.shape, "torch.gather({input}, {dim}, {index})")


@rule("take_along_dim")
def take_along_dim(t: Tracer, input: Traced, indices: Traced, dim: Any = None) -> Traced:
    if dim is None:
        return t(torch.gather, input.reshape(-1), 0, indices.reshape(-1))
    d = shapes.dim(input.dim(), dim)
    sizes = [
        (a, b) if n == d else (shapes.broadcast_size(t.graph, a, b),) * 2
        for n, (a, b) in enumerate(zip(input.node.shape, indices.node.shape, strict=True))
    ]
    whole, wanted = ([t.number(s[k]) for s in sizes] for k in (0, 1))
    return t(torch.gather, input.expand(whole), d, indices.expand(wanted))


@rule("__setitem__")
def setitem(t: Tracer, input: Traced, index: Any, value: Any) -> None:
    items = _items(input, index)
    masks = [x for x in items if _is_mask(x)]
    if masks:
        if len(masks) != 1 or any(not _is_mask(x) and x != slice(None) for x in items):
            masks[0]._needs_data("writing through a boolean mask and other indices", "use torch.where")
        if isinstance(value, Traced) and value.dim():
            masks[0]._needs_data("writing as many values as a mask is true", "use torch.where(mask, values, x)")
        mask = masks[0]
        for _ in range(input.dim() - mask.dim() - next(n for n, x in enumerate(items) if x is mask)):
            mask = mask[..., None]
        input.write(t(torch.Tensor.masked_fill, input, mask, value).node)
        return
    steps: list[tuple[Traced, Step]] = []
    part, indices = _basic(t, input, items, steps)
    if isinstance(value, Traced) and _same_view(part, value, input):
        return  # x[i] += y: the view was written in place
    new = (
        value
        if isinstance(value, Traced)
        else t(
            torch.full, (), hint_of(value) if not isinstance(value, Size) else value, dtype=input.dtype, device=t.device
        )
    )
    new = new.to(input.dtype)
    if indices:
        new = _put(t, part, indices, new)
    else:
        while new.dim() > part.dim():
            new = new.squeeze(0)
        new = new.expand(part.shape)
    for before, (kind, args) in reversed(steps):
        if kind == "unsqueeze":
            new = t(torch.squeeze, new, args[0])
        else:
            new = scatter(t, kind, before, new, args)
    input.write(new.node)


def _same_view(a: Traced, b: Traced, of: Traced) -> bool:
    """Are both the same part of ``of``, by the same views?"""
    return b.base is not None and _path(a, of) == _path(b, of) is not None


def _path(x: Traced, of: Traced) -> list[tuple[str, dict[str, Any]]] | None:
    """The views on the way from ``of`` to ``x``; None where there is no sure way."""
    found = []
    while x is not of:
        if x.base is None or not x.shares:
            return None
        if x._view is not None:
            found.append((x._view.op, {k: v for k, v in x._view.args.items() if k != "input"}))
        x = x.base
    return found


@rule("select_scatter")
def select_scatter(t: Tracer, input: Traced, src: Traced, dim: int, index: Any) -> Traced:
    return _written(t, input, (*(slice(None),) * shapes.dim(input.dim(), dim), index), src)


@rule("slice_scatter")
def slice_scatter(
    t: Tracer, input: Traced, src: Traced, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1
) -> Traced:
    return _written(t, input, (*(slice(None),) * shapes.dim(input.dim(), dim), slice(start, end, step)), src)


@rule("diagonal_scatter")
def diagonal_scatter(t: Tracer, input: Traced, src: Traced, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Traced:
    return put_back(t, t(torch.diagonal, input, offset, dim1, dim2).node, input, src)


@rule("index_put")
def index_put(t: Tracer, input: Traced, indices: Any, values: Traced, accumulate: bool = False) -> Any:
    if accumulate or (any(_is_mask(x) for x in indices) and (len(indices) > 1 or values.dim())):
        return unknown(t, torch.index_put, "index_put", (input, tuple(indices), values, accumulate), {})
    return _written(t, input, tuple(slice(None) if x is None else x for x in indices), values)


def _written(t: Tracer, input: Traced, index: tuple[Any, ...], src: Any) -> Traced:
    """A copy of ``input``, written to."""
    copy = Traced(t, input.node)
    setitem(t, copy, index, src)
    return copy


_PLACES = {
    "select": ("dim", "index"),
    "slice": ("dim", "start", "stop", "step"),
    "diagonal": ("offset", "dim1", "dim2"),
}


def scatter(t: Tracer, kind: str, into: Traced, part: Traced, place: tuple[Any, ...]) -> Traced:
    """``into`` with one of its views replaced."""
    where = dict(zip(_PLACES[kind], place, strict=True))
    call = f"torch.{kind}_scatter({{input}}, {{part}}, " + ", ".join(f"{{{k}}}" for k in where) + ")"
    args = {"input": into, "part": part, **where}
    return t.emit(f"{kind}_scatter", args, into.node.shape, call, dtype=into.dtype)


def put_back(t: Tracer, view: Node, base: Traced, part: Traced) -> Traced:
    """``base`` after a write of ``part`` to ``view``, a view of it.  Raises :class:`MutationError`."""
    if view.op in _PLACES:
        return scatter(t, view.op, base, part, tuple(view[name] for name in _PLACES[view.op]))
    if view.op == "permute":
        return t(torch.permute, part, [view["dims"].index(d) for d in range(part.dim())])
    if view.op in ("reshape", "unsqueeze", "squeeze"):
        return part.reshape([t.number(e) for e in base.node.shape])
    raise MutationError(
        f"{with_text(t.location)}: in-place write to a view made by {view.op}, whose elements may share memory; "
        "write to a clone of it"
    )


def _put(t: Tracer, into: Traced, indices: dict[int, Traced], value: Traced) -> Traced:
    (d, index), *more = indices.items()
    if not more and index.dim() == 1 and not value.dim():
        there = _listed(t, into, d, index)
        if there is not None:
            return t(torch.where, there[(slice(None), *[None] * (into.dim() - d - 1))], value, into)
    full = tuple(indices.get(d) for d in range(into.dim()))
    call = "torch.ops.aten.index_put({input}, {indices}, {value})"  # torch.index_put takes no None
    return t.emit("index_put", {"input": into, "indices": full, "value": value}, into.node.shape, call)


def _listed(t: Tracer, x: Traced, d: int, index: Traced) -> Traced | None:
    """Which positions of a dimension a list names, such as global tokens: a condition, as masks are made of.

    None where asking that saves nothing.
    """
    size, node = t.number(x.node.shape[d]), index.node
    if node.op == "constant" and node.dtype == torch.int64 and 0 < len(node["value"]) <= MOST_TERMS:
        at = t(torch.arange, size, device=t.device)
        places = dict.fromkeys(_place(t, x, d, as_expr(e)) for e in node["value"])
        return functools.reduce(lambda x, y: t(torch.logical_or, x, y), (t(torch.eq, at, t.number(e)) for e in places))
    if x.dim() == 1:
        return None
    none, true = (t(torch.full, s, b, dtype=torch.bool, device=t.device) for s, b in (((size,), False), ((), True)))
    return _put(t, none, {0: index}, true)


@rule("index_fill")
def index_fill(t: Tracer, input: Traced, dim: int, index: Traced, value: Any) -> Traced:
    return _written(t, input, (*(slice(None),) * shapes.dim(input.dim(), dim), index), value)


@rule("diag", "diag_embed", "diagflat")
def diag(
    t: Tracer, input: Traced, diagonal: int = 0, dim1: int = -2, dim2: int = -1, *, offset: int | None = None
) -> Traced:
    """A matrix with ``input`` on a diagonal, or the diagonal of a matrix."""
    shift = diagonal if offset is None else offset
    if t.op == "diag" and input.dim() == 2:
        return t(torch.diagonal, input, shift)
    if t.op == "diagflat":
        input = t(torch.flatten, input)
    wide = t(torch.nn.functional.pad, input, (0, abs(shift))) if shift else input
    at = t(torch.arange, t.number(wide.node.shape[-1]), device=t.device)
    wide = wide[..., :, None] if shift > 0 else wide[..., None, :]
    there = t(torch.eq, at[None, :] - at[:, None], shift)
    full = t(torch.where, there, wide, 0)
    return full if (dim1, dim2) == (-2, -1) else t(torch.movedim, full, (-2, -1), (dim1, dim2))


@rule("diagonal")
def diagonal(t: Tracer, input: Traced, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Traced:
    a, b = shapes.dim(input.dim(), dim1), shapes.dim(input.dim(), dim2)
    rows, columns = input.node.shape[a], input.node.shape[b]
    rows, columns = (rows - const(-offset), columns) if offset < 0 else (rows, columns - const(offset))
    length = rows if t.graph.assume(op("<=", rows, columns)) else columns
    shape = [e for n, e in enumerate(input.node.shape) if n not in (a, b)]
    args = {"input": input, "offset": offset, "dim1": a, "dim2": b}
    result = t.emit("diagonal", args, [*shape, length], "torch.diagonal({input}, {offset}, {dim1}, {dim2})")
    return t.view(input, result)
