"""Run a function under the tracer: arguments in, :class:`Graph` out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ..ir.expr import Load
from .bind import Binder, describe, leaf_paths, replace_leaves
from .capture import Finder
from .errors import ArgumentError, DeviceError, UnsupportedOpError
from .graph import Graph, Input, Location, map_arg
from .locate import with_text
from .sizes import as_expr, graph_number, is_number
from .traced import Traced
from .tracer import Tracer

_LETTERS = {1: "N", 2: "ND", 3: "BND", 4: "BHND", 5: "BHRCD"}


def trace(fn: Callable[..., Any], binder: Binder, values: tuple[Any, ...], finder: Finder) -> Graph:
    """The graph of ``fn`` for one value per parameter."""
    location = where_defined(fn)
    graph = Graph(getattr(fn, "__name__", "function"), location)
    leaves: list[Any] = []
    describe(values, [], leaves)
    paths = [p for name, value in zip(binder.names, values, strict=True) for p in leaf_paths(name, value)]
    named = list(zip(paths, leaves, strict=True))
    tracer = Tracer(graph, common_device(named, location), finder.find)
    double = any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in leaves)
    tracer.reserved = {_label(path) for path in paths}
    lead = _lead(leaves)
    traced = replace_leaves(values, [_argument(tracer, path, x, lead, double) for path, x in named])
    plain = [str(e) for n, x in zip(graph.inputs, leaves, strict=True) if x is lead for e in n.shape]
    graph.hints = {name: graph.hints[name] for name in plain} | graph.hints  # the first of two equal sizes names both
    drawn = torch.get_rng_state()  # PyTorch is asked about types with calls that may draw random numbers
    try:
        with tracer, _uncompiled(), torch.enable_grad():  # so that the function's own no_grad() is seen
            out = binder.call(fn, traced)
            graph.outputs = map_arg(out, lambda x: _output(tracer, x))
    finally:
        tracer.active = False
        torch.set_rng_state(drawn)
    graph.settle()
    graph.traced = len(graph.guards)
    return graph


def _uncompiled() -> AbstractContextManager[object]:
    """What ``torch.compile`` made of a function is the function, for as long as this lasts."""
    dynamo = "torch._dynamo" in sys.modules  # else nothing was compiled, and it takes long to import
    return torch.compiler.set_stance("force_eager") if dynamo else nullcontext()


def where_defined(fn: Callable[..., Any]) -> Location:
    """The line of a function's ``def``."""
    code = getattr(fn, "__code__", None)
    return Location(code.co_filename, code.co_firstlineno) if code else Location(getattr(fn, "__name__", "?"), 0)


def _output(tracer: Tracer, x: Any) -> Any:
    if isinstance(x, Traced):
        return x.node
    if isinstance(x, torch.Tensor):
        return tracer.capture(x).node
    if is_number(x) and not isinstance(x, int | float):
        return as_expr(x)
    if x is None or isinstance(x, bool | int | float | str | torch.dtype | torch.device):
        return x
    raise UnsupportedOpError(
        f"{with_text(tracer.graph.location)}: returns a {type(x).__name__}; a compiled function returns tensors and "
        "numbers, alone or in tuples, lists and dicts"
    )


def common_device(leaves: Sequence[tuple[str, Any]], location: Location) -> torch.device:
    """The one device of the arguments; lone numbers may live on the CPU."""
    tensors = [(p, x) for p, x in leaves if isinstance(x, torch.Tensor)]
    if not tensors:
        raise ArgumentError(f"{location}: a compiled function needs at least one tensor argument, found none")
    for path, x in tensors:
        if x.layout is not torch.strided or x.is_nested or x.is_quantized:
            what, how = (
                ("nested", "to_padded_tensor(0.0)") if x.is_nested
                else ("quantized", "dequantize()") if x.is_quantized
                else (str(x.layout).removeprefix("torch."), "to_dense()")
            )  # fmt: skip
            raise ArgumentError(
                f"{location}: {path} is a {what} tensor, expected a dense one with strides; pass {path}.{how}"
            )
    sized = [(p, x) for p, x in tensors if x.dim()] or tensors
    first, device = sized[0][0], sized[0][1].device
    for path, x in sized:
        if x.device != device:
            raise DeviceError(
                f"{location}: {path} is on {x.device}, but {first} is on {device}; move {path} with "
                f"{path}.to({str(device)!r})"
            )
    return device


def _lead(leaves: Sequence[Any]) -> torch.Tensor | None:
    """The tensor whose sizes get the plain names, the query as a rule: the first of the rank that most have."""
    floating = [x for x in leaves if isinstance(x, torch.Tensor) and x.is_floating_point() and x.dim()]
    ranks = [x.dim() for x in floating]
    return max(floating, key=lambda x: (ranks.count(x.dim()), x.dim()), default=None)


def _label(path: str) -> str:
    """A name for texts of IR, which are ASCII."""
    name = "".join(c if c.isalnum() and c.isascii() else "_" for c in path).strip("_").replace("__", "_")
    return name if name[:1].isalpha() else f"x{name}"


def _argument(tracer: Tracer, path: str, value: Any, lead: torch.Tensor | None, double: bool) -> Any:
    graph = tracer.graph
    name = _label(path)
    if not isinstance(value, torch.Tensor):
        name = tracer.unique(name)
        dtype = torch.float64 if double else torch.float32
        node = Input(len(graph.inputs), "input", {}, (), dtype, graph.location, label=name, source=("arg", path))
        graph.inputs.append(node)
        graph.hints[name] = value
        return graph_number(graph, Load(name, ()))
    letters = _LETTERS.get(value.dim(), "")
    if lead is None or value.dim() != lead.dim() or not letters:  # dimensions that say nothing by their position
        names = [f"{name}_{n}" for n in range(value.dim())]
    else:
        names = [letter if value is lead else f"{letter}_{name}" for letter in letters]
    return tracer.input(value, name, ("arg", path), names)
