"""Ops that make tensors from numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...ir.expr import Expr, Op, const, kind_of
from .. import shapes
from ..errors import DeviceError, DtypeError, UnsupportedOpError
from ..graph import leaves, map_arg, type_text
from ..locate import with_text
from ..sizes import as_expr, ceil, hint_of
from ..traced import Traced
from .layout import flat
from .registry import early, rule

if TYPE_CHECKING:
    from ..tracer import Tracer

_FULL = "torch.full({shape}, {value}, dtype={dtype}, device=device)"


def on_device(t: Tracer, device: Any, rank: int = 1) -> None:
    """Check that a new tensor lives where the arguments do; a lone number may live anywhere."""
    found = torch.device(device) if device is not None else torch.get_default_device()
    if rank and found.type != t.device.type:
        raise DeviceError(
            f"{with_text(t.location)}: makes a tensor on {found}, but the arguments are on {t.device}; "
            "add device=q.device (an argument's device)"
        )


def _full(t: Tracer, shape: Any, value: Any, dtype: torch.dtype) -> Traced:
    shape = tuple(as_expr(e) for e in shape)
    result = t.emit("full", {"shape": shape, "value": value, "dtype": dtype}, shape, _FULL, dtype=dtype)
    result.node.args = {k: result.node.args[k] for k in ("shape", "value")}
    return result


@rule("zeros", "ones", "empty", "full", factory=True)
def full(
    t: Tracer,
    *args: Any,
    size: Any = None,
    fill_value: Any = None,
    dtype: Any = None,
    device: Any = None,
    **options: Any,
) -> Traced:
    values = list(args)
    if t.op == "full" and fill_value is None:
        fill_value = values.pop()
    shape = flat(values) if size is None else list(size)
    on_device(t, device, len(shape))
    value = {"zeros": 0.0, "empty": 0.0, "ones": 1.0}.get(t.op, fill_value)
    return _full(t, shape, value, dtype or _type_of(value))


def _type_of(value: Any) -> torch.dtype:
    if isinstance(value, Traced):
        return value.dtype
    with torch._C.DisableTorchFunction():
        return torch.tensor(hint_of(value)).dtype


@rule("zeros_like", "ones_like", "empty_like", "full_like")
def full_like(t: Tracer, input: Traced, fill_value: Any = None, *, dtype: Any = None, **options: Any) -> Traced:
    return _full(
        t,
        input.node.shape,
        {"zeros_like": 0, "empty_like": 0, "ones_like": 1}.get(t.op, fill_value),
        dtype or input.dtype,
    )


@rule("new_zeros", "new_ones", "new_empty", "new_full")
def new_full(
    t: Tracer, input: Traced, *args: Any, size: Any = None, fill_value: Any = None, dtype: Any = None, **options: Any
) -> Traced:
    values = list(args)
    if t.op == "new_full" and fill_value is None:
        fill_value = values.pop()
    shape = flat(values) if size is None else list(size)
    return _full(t, shape, {"new_zeros": 0, "new_empty": 0, "new_ones": 1}.get(t.op, fill_value), dtype or input.dtype)


@rule("arange", factory=True)
def arange(
    t: Tracer,
    *args: Any,
    start: Any = None,
    end: Any = None,
    step: Any = None,
    dtype: Any = None,
    device: Any = None,
    **options: Any,
) -> Traced:
    on_device(t, device)
    values = [as_expr(x) for x in args]
    if start is None:
        start = values.pop(0) if len(values) > 1 or (end is not None and values) else const(0)
    if end is None:
        end = values.pop(0)
    if step is None:
        step = values.pop(0) if values else const(1)
    start, end, step = (as_expr(x) for x in (start, end, step))
    if all(kind_of(e) == "int" for e in (start, end, step)):
        length, natural = _arange_length(start, end, step), torch.int64
    else:
        length, natural = ceil((end - start) / step), torch.get_default_dtype()
    dtype = dtype or natural
    args_ = {"start": start, "stop": end, "step": step, "dtype": dtype}
    call = "torch.arange({start}, {stop}, {step}, dtype={dtype}, device=device)"
    result = t.emit("arange", args_, (t.graph.canon(length),), call, dtype=dtype)
    result.node.args = {k: result.node.args[k] for k in ("start", "stop", "step")}
    return result


def _arange_length(start: Expr, end: Expr, step: Expr) -> Expr:
    span = end - start
    match end:
        case Op("+", (a, b)) if start in (a, b):  # arange(n, n + m)
            span = b if start == a else a
    return span if step == const(1) else -((-span) // step)


@early("tensor", "as_tensor", "scalar_tensor")
def literal(t: Tracer, data: Any, *, dtype: Any = None, device: Any = None, **options: Any) -> Any:
    """``torch.tensor`` of numbers written in the program."""
    if isinstance(data, Traced):
        return data if dtype is None else data.to(dtype)
    if any(isinstance(x, Traced) for x in leaves(data)):
        next(x for x in leaves(data) if isinstance(x, Traced))._needs_data("torch.tensor of tensors", "use torch.stack")
    with torch._C.DisableTorchFunction():
        made = torch.tensor(map_arg(data, hint_of), dtype=dtype)
    on_device(t, device, made.dim())
    if not isinstance(data, tuple | list):
        return _full(t, (), data, made.dtype)
    shape = tuple(const(n) for n in made.shape)
    call = "torch.tensor({value}, dtype={dtype}, device=device)"
    result = t.emit("constant", {"value": data, "dtype": made.dtype}, shape, call, dtype=made.dtype)
    result.node.args = {"value": result.node.args["value"]}
    return result


@rule("linspace", factory=True)
def linspace(
    t: Tracer, start: Any, end: Any, steps: Any, *, dtype: Any = None, device: Any = None, **options: Any
) -> Traced:
    on_device(t, device)
    kind = dtype or (start.dtype if isinstance(start, Traced) else torch.get_default_dtype())
    args = {"start": start, "end": end, "steps": as_expr(steps), "dtype": kind}
    call = "torch.linspace({start}, {end}, {steps}, dtype={dtype}, device=device)"
    return t.emit("linspace", args, (args["steps"],), call, dtype=kind)


@rule("polar", "complex", probe=True)
def pairs_of_parts(t: Tracer, a: Traced, b: Traced) -> Traced:
    return t.emit(t.op, {"input": a, "other": b}, shapes.broadcast(t.graph, a.node.shape, b.node.shape),
                  f"torch.{t.op}({{input}}, {{other}})")  # fmt: skip


@rule("view_as_complex")
def view_as_complex(t: Tracer, input: Traced) -> Traced:
    t.graph.unify(input.node.shape[-1], const(2))
    kind = input.dtype.to_complex()
    shape = input.node.shape[:-1]
    made = t.emit("view_as_complex", {"input": input}, shape, "torch.view_as_complex({input})", dtype=kind)
    return t.view(input, made)


@rule("view_as_real")
def view_as_real(t: Tracer, input: Traced) -> Traced:
    kind = input.dtype.to_real()
    shape = (*input.node.shape, const(2))
    return t.view(input, t.emit("view_as_real", {"input": input}, shape, "torch.view_as_real({input})", dtype=kind))


@rule("eye", factory=True)
def eye(t: Tracer, n: Any, m: Any = None, *, dtype: Any = None, device: Any = None, **options: Any) -> Traced:
    """``eye`` is a comparison of positions."""
    on_device(t, device)
    rows = t(torch.arange, n, device=t.device)[:, None]
    columns = t(torch.arange, n if m is None else m, device=t.device)[None, :]
    return t(torch.eq, rows, columns).to(dtype or torch.get_default_dtype())


@rule("one_hot")
def one_hot(t: Tracer, tensor: Traced, num_classes: Any = -1) -> Traced:
    """A comparison of numbers with classes; a number that is none has zeros, where PyTorch raises an error."""
    if isinstance(num_classes, int) and num_classes < 0:
        tensor._needs_data("one_hot without num_classes", "pass num_classes")
    if tensor.dtype != torch.int64:
        raise DtypeError(f"{with_text(t.location)}: one_hot takes int64, not {type_text(tensor.node)}")
    return t(torch.eq, tensor[..., None], t(torch.arange, num_classes, device=t.device)).to(torch.int64)


@rule("fill_diagonal_")
def fill_diagonal_(t: Tracer, input: Traced, fill_value: Any, wrap: bool = False) -> Traced:
    """Where the row is the column."""
    if input.dim() != 2 or wrap:
        raise UnsupportedOpError(f"{with_text(t.location)}: attnc fills diagonals of matrices only, without wrap=True")
    diagonal = t(torch.eye, *input.shape, dtype=torch.bool, device=t.device)
    input.write(t(torch.masked_fill, input, diagonal, fill_value).node)
    return input


@rule("fill_", "zero_")
def fill_(t: Tracer, input: Traced, value: Any = 0) -> Traced:
    input.write(_full(t, input.node.shape, value, input.dtype).node)
    return input


FOUND_BY_NAME = (
    "logspace",
    "tril_indices",
    "triu_indices",
    "rand",
    "randn",
    "randint",
    "randperm",
    "from_numpy",
    "hann_window",
    "hamming_window",
    "as_strided",
    "full_",
)
