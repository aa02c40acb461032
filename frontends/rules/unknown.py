"""Ops without a rule: kept as a call to PyTorch, with a shape found by trying other sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import resolve_name

from ...ir.expr import Expr, const, evaluate, free_vars
from ..errors import ShapeError, UnsupportedOpError
from ..graph import Node, leaves, map_arg, type_text
from ..locate import with_text
from ..sizes import as_expr, hint_of, is_number
from ..traced import Traced
from .conversions import converted
from .registry import FACTORIES

if TYPE_CHECKING:
    from ..tracer import Tracer

_LIKE_INPUT = {  # the result has the sizes of the first argument; what is written depends on values
    "scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_reduce",
}  # fmt: skip
_PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73)


def unknown(t: Tracer, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Record a call that attnc has no rule for.  Raises :class:`UnsupportedOpError` if it cannot be one."""
    if kwargs.pop("out", None) is not None:
        raise UnsupportedOpError(f"{with_text(t.location)}: out= writes to a tensor; use the result of {name} instead")
    found = _on_meta(t, func, name, args, kwargs)
    results = found if isinstance(found, tuple | list) else [found]
    if not all(isinstance(r, torch.Tensor) for r in results):
        raise UnsupportedOpError(f"{with_text(t.location)}: {name} gives no tensor, and attnc has no rule for it")
    path = _path(func, name)
    if path is None:
        raise UnsupportedOpError(
            f"{with_text(t.location)}: attnc has no rule for {name} and cannot call it; compute it outside the "
            "compiled function and pass the result as an argument"
        )
    named = {f"arg{n}": x for n, x in enumerate(args)}
    template = ", ".join([f"{{arg{n}}}" for n in range(len(args))] + [f"{k}={{{k}}}" for k in kwargs])
    if path.startswith("torch.Tensor."):
        template = ", ".join([f"{{arg{n}}}" for n in range(1, len(args))] + [f"{k}={{{k}}}" for k in kwargs])
        template = f"{{arg0}}.{path.removeprefix('torch.Tensor.')}({template})"
    else:
        template = f"{path}({template})"
    sizes = _result_sizes(t, func, name, args, kwargs, results)
    t.result = None
    if isinstance(found, torch.Tensor):
        result = t.emit(name, named | kwargs, sizes[0], template, dtype=found.dtype)
        base = args[0] if args else None
        return t.view(base, result, False) if isinstance(base, Traced) and found._is_view() else result
    whole = t.emit(name, named | kwargs, (), template, dtype=results[0].dtype)
    picks = [
        t.emit("result", {"input": whole, "index": n}, size, f"{{input}}[{n}]", dtype=meta.dtype)
        for n, (meta, size) in enumerate(zip(results, sizes, strict=True))
    ]
    kind = type(found)
    return kind(picks) if kind in (tuple, list) or hasattr(kind, "n_fields") else tuple(picks)


def _on_meta(t: Tracer, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """What PyTorch says that this call gives, by its shape functions."""

    def meta(x: Any) -> Any:
        if isinstance(x, Traced):
            return torch.empty([int(t.graph.hint(e)) for e in x.node.shape], dtype=x.dtype, device="meta")
        return torch.device("meta") if isinstance(x, torch.device) else hint_of(x)

    more = {k: map_arg(v, meta) for k, v in kwargs.items()}
    if "device" in more or name in FACTORIES:
        more["device"] = "meta"
    try:
        with torch._C.DisableTorchFunction():
            return func(*map_arg(args, meta), **more)
    except NotImplementedError:
        raise UnsupportedOpError(
            f"{with_text(t.location)}: PyTorch's {name} gives a result whose size depends on tensor values, or cannot "
            "be asked for its shape; compute it outside the compiled function and pass the result as an argument"
        ) from None
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "does not have a deterministic implementation" in message:
            raise UnsupportedOpError(
                f"{with_text(t.location)}: PyTorch has no deterministic {name} for every device, and refuses even its "
                "shape while torch.use_deterministic_algorithms(True) is in force; compute it outside the compiled "
                "function and pass the result as an argument, or set warn_only=True"
            ) from None
        found = ", ".join(type_text(x.node) for x in leaves((list(args), kwargs)) if isinstance(x, Traced))
        raise ShapeError(f"{with_text(t.location)}: {message} (in {name} of {found})") from None


def _path(func: Any, name: str) -> str | None:
    path = str(func) if isinstance(func, torch._ops.OpOverload) else resolve_name(func)
    if isinstance(func, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return f"torch.ops.{path}" if isinstance(func, torch._ops.OpOverload) else f"torch.ops.{func}"
    attribute = path is not None and path.endswith(".__get__")  # x.imag is torch.imag(x)
    if (path is not None and path.startswith("torch.functional.")) or (
        (path is None or attribute) and hasattr(torch, name)
    ):
        path = f"torch.{name}"
    if path is None or not path.startswith("torch."):
        return None
    return None if any(part.startswith("_") for part in path.split(".")) else path


def _result_sizes(t: Tracer, func: Any, name: str, args: Any, kwargs: Any, results: Any) -> list[list[Expr]]:
    """For each result dimension the size, constant or new symbol that explains it at two sets of sizes."""
    graph = t.graph
    if name in _LIKE_INPUT and isinstance(args[0], Traced):
        return [list(args[0].node.shape)]
    known: list[Expr] = []
    for x in leaves((list(args), kwargs)):
        if isinstance(x, Traced):
            known += [graph.canon(e) for e in x.node.shape]
        elif is_number(x) and not isinstance(x, int | float):
            known.append(as_expr(x))
    known = list(dict.fromkeys(known))
    symbols = sorted(set().union(*(free_vars(e) for e in known), set()))
    other = {s: int(graph.hints[s]) * _PRIMES[n % len(_PRIMES)] + (graph.hints[s] == 0) for n, s in enumerate(symbols)}

    def probe(x: Any) -> Any:
        if isinstance(x, Traced):
            sizes = [int(evaluate(graph.canon(e), other)) for e in x.node.shape]
            return torch.empty(sizes, dtype=x.dtype, device="meta")
        if is_number(x) and not isinstance(x, int | float):
            return evaluate(as_expr(x), other)
        return torch.device("meta") if isinstance(x, torch.device) else x

    second: Any = None
    try:
        with torch._C.DisableTorchFunction():
            more = {k: map_arg(v, probe) for k, v in kwargs.items()}
            second = func(
                *map_arg(args, probe),
                **({"device": "meta"} if "device" in more else {}) | {k: v for k, v in more.items() if k != "device"},
            )
    except Exception:  # the sizes tried break a rule of this op: nothing is known then
        second = None
    others = second if isinstance(second, tuple | list) else [second] * len(results)
    return [
        [
            _size(t, name, int(size), None if try_ is None else int(try_.shape[d]), known, other)
            for d, size in enumerate(first.shape)
        ]
        for first, try_ in zip(results, others, strict=True)
    ]


def _size(t: Tracer, name: str, first: int, second: int | None, known: list[Expr], other: dict[str, int]) -> Expr:
    if second is not None:
        for e in known:
            if t.graph.hint(e) == first and evaluate(e, other) == second:
                return e
        if first == second:
            return const(first)
    return t.unknown_size(name, first)


def in_place(name: str) -> Any:
    """The rule for ``x.name_()``: a new value for ``x``."""
    base = (
        getattr(torch.Tensor, name[:-1], None)
        or getattr(torch, name[:-1], None)
        or getattr(torch.nn.functional, name[:-1], None)
    )

    def run(t: Tracer, input: Traced, *args: Any, **kwargs: Any) -> Traced:
        if base is None:
            raise UnsupportedOpError(f"{with_text(t.location)}: {name} writes in place and attnc has no rule for it")
        node: Node = converted(t, t(base, input, *args, **kwargs), input.dtype).node
        input.write(node)
        return input

    return run


def copy_(t: Tracer, input: Traced, src: Any, non_blocking: bool = False) -> Traced:
    """``x.copy_(y)``."""
    input.write(src.to(input.dtype).expand(input.shape).node)
    return input
