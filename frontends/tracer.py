"""The tracer: runs the user's function once on :class:`Traced` tensors and writes down what it does.

A rule of :mod:`.rules` gives the symbolic shape and the canonical node of an op.  The element type, and PyTorch's own
message for a mistake in it, come from running the op on tensors of one element: asking ``meta`` tensors would
import a second of PyTorch's compiler on the first op.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..ir.expr import Expr, Var
from . import autocast, rules
from .calls import call_text
from .errors import (
    DeviceError,
    DtypeError,
    Mismatch,
    MissingDimension,
    RankError,
    ShapeError,
    TransformError,
    UnknownTensorError,
    UnsupportedOpError,
)
from .graph import Graph, Input, Node, Source, leaves, map_arg, type_text
from .locate import user_line, with_text
from .sizes import as_expr, graph_number, hint_of, is_number
from .smooth import is_smooth
from .traced import Traced


class Tracer(TorchFunctionMode):
    """Active while the user's function runs."""

    def __init__(self, graph: Graph, device: torch.device, find: Callable[[torch.Tensor], str | None]):
        super().__init__()
        self.graph, self.device, self.find = graph, device, find
        self.active = True
        self.location = graph.location
        self.op = ""  # the op being traced
        self.writes = 0  # in place, so far
        self.low: torch.dtype | None = None  # what autocast made of floats, if it was on
        self.result: Any = None  # what it gives for tensors of one element
        self.reserved: set[str] = set()  # names of arguments, which sizes keep off
        self.captured: dict[int, tuple[torch.Tensor, Traced]] = {}

    # ---- inputs

    def input(self, tensor: torch.Tensor, name: str, source: Source, sizes: Sequence[str]) -> Traced:
        """A tensor from outside; ``sizes`` are the symbols of its dimensions, changed where they are taken."""
        name = self.unique(name)
        symbols: list[Expr] = []
        for axis, (wanted, size) in enumerate(zip(sizes, tensor.shape, strict=True)):
            symbol = self.fresh(wanted)
            self.graph.hints[symbol] = int(size)
            self.graph.bindings[symbol] = len(self.graph.inputs), axis
            symbols.append(Var(symbol))
        node = Input(
            len(self.graph.inputs), "input", {}, tuple(symbols), tensor.dtype, self.graph.location,
            label=name, source=source,
        )  # fmt: skip
        self.graph.inputs.append(node)
        traced = Traced(self, node)
        traced.memory.outside = True
        return traced

    def unique(self, name: str) -> str:
        taken = {n.name for n in self.graph.inputs}
        count = 2
        base = name
        while name in taken:
            name, count = f"{base}_{count}", count + 1
        return name

    def capture(self, tensor: torch.Tensor) -> Traced:
        """A real tensor that the function met."""
        known = self.captured.get(id(tensor))
        if known is not None:
            return known[1]
        path = self.find(tensor)
        if path is None and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            raise TransformError(
                f"{with_text(self.location)}: a transformation such as torch.vmap inside a compiled function cannot be "
                "traced; write the batch dimensions out, or transform the compiled function"
            )
        if path is None:
            raise UnknownTensorError(
                f"{with_text(self.location)}: uses a tensor of shape {tuple(tensor.shape)} that is neither an argument "
                "nor reachable from the function by name (a closure, a global, an attribute); pass it as an argument"
            )
        if tensor.device != self.device and tensor.dim():
            raise DeviceError(
                f"{with_text(self.location)}: {path} is on {tensor.device}, but the arguments are on {self.device}; "
                f"move it with {path}.to({str(self.device)!r})"
            )
        name = _identifier(path)
        traced = self.input(tensor, name, ("capture", path), [f"{name}_{n}" for n in range(tensor.dim())])
        self.captured[id(tensor)] = (tensor, traced)
        return traced

    def fresh(self, name: str) -> str:
        """A size symbol that is not in use."""
        count, base = 2, name
        while name in self.graph.hints or name in self.reserved:
            name, count = f"{base}_{count}", count + 1
        return name

    # ---- ops

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.dispatch(func, args, kwargs or {})

    def __call__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Trace one op of PyTorch from inside a rule."""
        outer = self.op, self.result
        try:
            return self.dispatch(func, args, kwargs)
        finally:
            self.op, self.result = outer

    def dispatch(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Trace one call of PyTorch."""
        name = op_name(func)
        if name in rules.TRANSPARENT or not (
            name in rules.FACTORIES or _has_tensor(args) or _has_tensor(kwargs.values())
        ):
            return _quotient(*args, **kwargs) if name == "div" else func(*args, **kwargs)
        self.location = user_line()
        args = map_arg(tuple(args), self._wrap)
        kwargs = map_arg(kwargs, self._wrap)
        low = autocast.state(self.device.type)
        if low is None:
            return self._apply(func, name, args, kwargs)
        self.low = low
        with autocast.switched(self.device.type, None), autocast.switched("cpu", None):
            return self._apply(func, name, *autocast.cast(self, func, low, args, kwargs))

    def _apply(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        self.op, self.result = name, None
        early = rules.EARLY.get(name)
        if early is not None:
            return early(self, *args, **kwargs)
        if getattr(func, "__name__", "") == "__get__" and isinstance(getattr(Traced, name, None), property):
            return getattr(args[0], name)  # of a captured tensor
        rule = rules.RULES.get(name)
        if rule is None and name.endswith("_") and not name.startswith("__"):
            rule = rules.in_place(name)
        if rule is None:
            return rules.opened(self, func, name, args, kwargs)
        self.result = self.probe(func, args, kwargs) if name in rules.PROBED else None
        kwargs = {rules.RENAMED.get(k, k): v for k, v in kwargs.items()}
        try:
            return rule(self, *args, **kwargs)
        except TypeError as error:
            try:
                inspect.signature(rule).bind(self, *args, **kwargs)
            except TypeError as reason:
                raise UnsupportedOpError(f"{with_text(self.location)}: {name}: {reason} that attnc knows of") from None
            raise error
        except Mismatch as error:
            shapes = ", ".join(type_text(x.node) for x in leaves((list(args), kwargs)) if isinstance(x, Traced))
            kind = RankError if isinstance(error, MissingDimension) else ShapeError
            raise kind(f"{with_text(self.location)}: {error} (in {name} of {shapes})") from None

    def _wrap(self, x: Any) -> Any:
        if type(x).__name__ == "CausalBias":  # of torch.nn.attention.bias: a mask that is not written out
            lower = x.seq_len_kv - x.seq_len_q if x.variant.name == "LOWER_RIGHT" else 0
            return self(torch.ones, x.seq_len_q, x.seq_len_kv, dtype=torch.bool, device=self.device).tril(lower)
        return self.capture(x) if isinstance(x, torch.Tensor) and not isinstance(x, Traced) else x

    def probe(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What PyTorch gives for tensors of the same types and ranks with one element each."""
        more = {k: map_arg(v, _one) for k, v in kwargs.items() if k != "device"}
        try:
            with torch._C.DisableTorchFunction(), torch.no_grad():
                return func(*map_arg(args, _one), **more)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            found = ", ".join(type_text(x.node) for x in leaves((list(args), kwargs)) if isinstance(x, Traced))
            about_type = "type" in message or "not implemented for" in message
            kind = DtypeError if about_type else RankError if "imension out of range" in message else ShapeError
            raise kind(f"{with_text(self.location)}: {message} (in {self.op} of {found})") from None

    def emit(
        self, op: str, args: dict[str, Any], shape: Sequence[Expr], call: str, *, dtype: torch.dtype | None = None
    ) -> Traced:
        """Add a node.  ``call`` is a format string over ``args``."""
        if dtype is None:
            dtype = args["input"].dtype if self.result is None else self.result.dtype
        args = {k: map_arg(v, _plain) for k, v in args.items()}
        text, inputs = call_text(call, args, {n.name: n for n in self.graph.inputs})
        shape = tuple(self.graph.canon(e) for e in shape)
        node = Node(len(self.graph.nodes), op, args, shape, dtype, self.location, text, inputs)
        self.graph.nodes.append(node)
        if not torch.is_grad_enabled():
            self.cut(node)
        return Traced(self, node)

    def cut(self, node: Node) -> None:
        """No gradient passes this value; notes it if one would."""
        waiting = [node] if self.graph.cut is None and is_smooth(node.dtype) else []
        seen = set(waiting)
        while waiting:
            node = waiting.pop()
            if isinstance(node, Input):
                self.graph.cut = self.location
                return
            if node.op == "amax":  # what a softmax spelled by hand subtracts: no gradient would come of it anyway
                self.graph.peak = self.graph.peak or self.location
                continue
            more = {x for x in node.inputs if is_smooth(x.dtype)} - seen
            seen |= more
            waiting += more

    def view(self, base: Traced, result: Traced, shares: bool = True) -> Traced:
        """Mark ``result`` as sharing memory with ``base``, or as doing so for some layouts only."""
        result.become_view(base, shares)
        return result

    def tick(self) -> int:
        """The time of a write in place."""
        self.writes += 1
        return self.writes

    def again(self, view: Node, base: Node) -> Node:
        """The view of a tensor that was written since the view was taken."""
        old = view["input"]
        args = {**view.args, "input": base}
        inputs = tuple(base if x is old else x for x in view.inputs)
        node = replace(view, id=len(self.graph.nodes), args=args, inputs=inputs, location=self.location)
        self.graph.nodes.append(node)
        return node

    def put_back(self, view: Node, base: Node, part: Node) -> Node:
        """``base`` after ``part`` was written to a view of it."""
        return rules.put_back(self, view, Traced(self, base), Traced(self, part)).node

    def unknown_size(self, op: str, hint: int) -> Expr:
        """A size that only running ``op`` tells."""
        name = self.fresh(f"{_identifier(op)}_n")
        self.graph.hints[name] = hint
        self.graph.late.add(name)
        return Var(name)

    def number(self, e: Expr) -> Any:
        return graph_number(self.graph, e)


def _quotient(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """``torch.div`` of two sizes, which are never negative; eager gives a tensor, used where a number may stand."""
    return input / other if rounding_mode is None else input // other


def _plain(x: Any) -> Any:
    """An argument as a node keeps it."""
    if isinstance(x, Traced):
        return x.node
    if isinstance(x, Expr):
        return x
    if is_number(x) and not isinstance(x, int | float):
        return as_expr(x)
    return x


def _has_tensor(values: Any) -> bool:
    return any(isinstance(x, torch.Tensor) for x in leaves(list(values)))


def op_name(func: Any) -> str:
    """One name for a function, a method, an operator or a property of PyTorch."""
    if func is torch.nn.functional.unfold:
        return "im2col"  # Tensor.unfold is another op
    name = getattr(func, "__name__", "")
    if name == "__get__":
        name = func.__self__.__name__
    if isinstance(func, torch._ops.OpOverload):
        name = name.split(".")[0]
    return rules.SAME.get(name, name)


def _one(x: Any) -> Any:
    if isinstance(x, Traced):
        return torch.ones((1,) * len(x.node.shape), dtype=x.dtype)
    return hint_of(x)


def _identifier(path: str) -> str:
    text = "".join(c if c.isalnum() and c.isascii() else "_" for c in path.removeprefix("self."))
    while "__" in text:
        text = text.replace("__", "_")
    text = text.strip("_") or "capture"
    return text if text[0].isalpha() else f"x{text}"
