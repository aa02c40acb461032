"""``attnc.compile`` and what it returns."""

from __future__ import annotations

import functools
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch.autograd import forward_ad

from ..compiler import driver
from ..compiler.errors import nearest
from ..compiler.plan import Note, Plan
from ..ir.errors import AttncError
from . import autocast
from .again import Again
from .bind import ORDINARY, Binder, describe, device_of, key_of
from .capture import Finder, plain
from .closures import Packed
from .errors import NotAFunctionError, UsageError
from .fallback import MODES, report
from .gradient import run_with_gradient
from .graph import Graph
from .recompute import Call, has_tangents, run_as_written
from .specialise import Specialisation, call_values
from .table import Table
from .trace import trace

if TYPE_CHECKING:
    from ..compiler.lowered import Lowered

BACKENDS = ("auto", *driver.BACKENDS)
_DTYPES = {torch.float32: "f32", torch.float64: "f64", torch.bfloat16: "bf16", torch.float16: "f16"}


class CompiledAttention:
    """A function that runs compiled.  ``eager`` is the function as written.

    The first call of each kind (ranks, element types, devices, arguments that are not tensors or floats) traces
    and compiles; so does one that breaks a guard of every trace so far.  New sizes, values of tensors and values
    of Python floats do not.
    """

    def __init__(self, fn: Callable[..., Any], backend: str, fallback: str, options: Mapping[str, Any] | None):
        functools.update_wrapper(self, fn)
        self.eager = fn
        self.backend, self.fallback, self.options = backend, fallback, dict(options or {})
        self._binder = Binder(fn)
        self._table = Table()
        self._again: Again | None = None  # the latest call, if the next one may be like it
        self._lock = threading.RLock()
        _ALL.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _observed():
            from .observed import call_observed

            return call_observed(self, args, kwargs)
        again = self._again
        if again is not None and not kwargs and (results := again.call(self, args)) is not None:
            return again.pick(results, args)
        values = self._binder.values(args, kwargs)
        key, leaves, low = key_of(values)
        arguments = dict(zip(self._binder.names, values, strict=True))
        for found in self._table.of(key):
            inputs = found.inputs(arguments, leaves)
            if inputs is not None:
                results = self._run(found, values, leaves, inputs, low)
                if results is not None:
                    self._again = Again.of(found, values, low) or self._again
                    return found.pick(results, inputs)
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        if any(type(x) not in ORDINARY for x in tensors) or (tensors and all(x.is_meta for x in tensors)):
            from .observed import call_through_op

            return call_through_op(self, values)
        try:
            found, inputs = self._specialise(key, values, arguments, leaves)
        except AttncError as error:  # the message says all; the frames between the user's and ours do not help
            raise error.with_traceback(None) from None
        results = self._run(found, values, leaves, inputs, low)
        assert results is not None, f"{found.graph.name} was compiled for other arguments"
        self._again = Again.of(found, values, low) or self._again
        return found.pick(results, inputs)

    def _run(
        self,
        found: Specialisation,
        values: tuple[Any, ...],
        leaves: list[Any],
        inputs: list[Any],
        low: torch.dtype | None,
    ) -> Sequence[torch.Tensor] | None:
        """The resulting tensors, or None if a guard does not hold."""
        if forward_ad._current_level >= 0 and has_tangents(inputs):
            return run_as_written(found, Call.of(self, found, values, len(leaves), inputs, low), inputs)
        if torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in inputs):
            call = Call.of(self, found, values, len(leaves), inputs, low)
            return run_with_gradient(found, call, inputs)
        if low is None:
            return found.run(inputs)
        with autocast.off(found.device.type):
            return found.run(inputs)

    def _specialise(
        self, key: tuple[Any, ...], values: tuple[Any, ...], arguments: Mapping[str, Any], leaves: list[Any]
    ) -> tuple[Specialisation, list[Any]]:
        with self._lock:
            for found in self._table.of(key):  # another thread may have been first
                inputs = found.inputs(arguments, leaves)
                if inputs is not None and found.holds(inputs):
                    return found, inputs
            finder = self._finder(values, arguments)
            graph = trace(self.eager, self._binder, values, finder)
            captured = [n.source[1] for n in graph.inputs if n.source[0] == "capture"]
            tensors = [finder.getter(path)(arguments) for path in captured]
            inputs = [*leaves, *tensors]
            notes: list[Note] = []

            def make_module() -> Any:
                from .raising import raise_graph

                raised = raise_graph(graph)
                notes[:] = [Note(n.op, str(n.location), n.reason, str(n.bytes), n.quadratic) for n in raised.notes]
                return raised.module

            device = device_of(inputs)
            assert device is not None, "a function without tensors is not traced"
            program: dict[str, Any] = {
                "key": graph.text(),
                "make_module": make_module,
                "backend": self.backend,
                "dtype": element_type(graph),
                "device": device,
                "options": self.options,
                "hints": graph.hints,
            }
            captures = [
                (finder.getter(path), x.dtype, x.dim(), x.device) for path, x in zip(captured, tensors, strict=True)
            ]
            kinds = {name: _kind(value) for name, value in arguments.items()}

            wanted = [n for n, x in enumerate(inputs) if isinstance(x, torch.Tensor) and x.requires_grad]
            if graph.cut or not torch.is_grad_enabled():
                wanted = []

            def specialised() -> Specialisation:
                plan = driver.build(**program, notes=lambda: notes, wanted=wanted)

                def build_gradient(wanted: Sequence[int], given: Sequence[int]) -> Plan:
                    return driver.build_gradient(**program, wanted=wanted, given=given, forward=plan)

                return Specialisation(graph, plan, captures, finder.watched(), kinds, device, build_gradient)

            found = specialised()
            report(self.fallback, graph, found.plan.notes, call_values(graph, inputs))
            if directions := driver.untuned(**program):
                from .tuning import tune_call

                if tune_call(self, found, values, leaves, inputs, directions):
                    found = specialised()
            self._table.add(key, found, arguments, inputs)
            return found, inputs

    def _finder(self, values: tuple[Any, ...], arguments: Mapping[str, Any]) -> Finder:
        # what the key of a call holds by value needs no watching
        objects = {
            k: v
            for k, v in arguments.items()
            if isinstance(v, Packed) or not (isinstance(v, (torch.Tensor, tuple, list, dict)) or plain(v))
        }
        return Finder(self.eager, objects)

    def trace(self, *args: Any, **kwargs: Any) -> Graph:
        """The traced graph of a call, without compiling it."""
        values = self._binder.values(args, kwargs)
        return self.trace_values(values)

    def trace_values(self, values: tuple[Any, ...]) -> Graph:
        """The same for one value per parameter."""
        arguments = dict(zip(self._binder.names, values, strict=True))
        try:
            return trace(self.eager, self._binder, values, self._finder(values, arguments))
        except AttncError as error:
            raise error.with_traceback(None) from None

    def lower(self, *args: Any, target: str | None = None, **kwargs: Any) -> Lowered:
        """The program of a call, stage by stage; ``target`` (``"sm_90"``) may be a device that is not here."""
        from .raising import raise_graph

        graph = self.trace(*args, **kwargs)
        text = graph.text()
        device = next(x.device for x in _flat(self._binder.values(args, kwargs)) if x.dim())
        raised = raise_graph(graph)
        return driver.lower(
            text,
            raised.module.clone,
            backend=self.backend,
            dtype=element_type(graph),
            device=device,
            options=self.options,
            target=target,
            hints=graph.hints,
            eager=raised.notes,
            files={os.path.basename(n.location.file): n.location.file for n in reversed(graph.nodes)},
        )

    # ---- as a method, as a value

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else BoundCompiled(self, instance)

    def __deepcopy__(self, memo: Any) -> CompiledAttention:
        return self

    def __reduce__(self) -> Any:
        name = getattr(self.eager, "__qualname__", "")
        if "<" in name or not name:
            raise TypeError(f"cannot pickle {self!r}: {name or 'it'} cannot be imported by name; define it in a module")
        return _by_name, (self.eager.__module__, name, self.backend, self.fallback, self.options)

    def __repr__(self) -> str:
        return f"<attnc.compile of {getattr(self.eager, '__qualname__', self.eager)}>"


class BoundCompiled:
    """A compiled method of one object."""

    def __init__(self, compiled: CompiledAttention, instance: Any):
        self.compiled, self.instance = compiled, instance
        self.__name__, self.__doc__ = getattr(compiled, "__name__", "method"), compiled.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.compiled(self.instance, *args, **kwargs)

    def eager(self, *args: Any, **kwargs: Any) -> Any:
        """The method as written."""
        return self.compiled.eager(self.instance, *args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """See :meth:`CompiledAttention.lower`."""
        return self.compiled.lower(self.instance, *args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> Graph:
        """See :meth:`CompiledAttention.trace`."""
        return self.compiled.trace(self.instance, *args, **kwargs)


def _by_name(module: str, qualname: str, *options: Any) -> Any:
    """The compiled function of this name: the name is that of a decorated function, or of the plain one."""
    import importlib

    value: Any = importlib.import_module(module)
    for part in qualname.split("."):
        value = inspect.getattr_static(value, part)
    if isinstance(value, CompiledAttention):
        if (value.backend, value.fallback, value.options) == options:
            return value
        value = value.eager
    return CompiledAttention(value, *options)


def _observed() -> bool:
    """Does PyTorch trace, transform or intercept what runs now?  Asked by each call."""
    return bool(
        torch.compiler.is_dynamo_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )


_ALL: weakref.WeakSet[CompiledAttention] = weakref.WeakSet()


def _after_fork() -> None:
    # Another thread of the parent may have held a lock, and nobody here would release it.
    for compiled in _ALL:
        compiled._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def _flat(values: Any) -> list[torch.Tensor]:
    found: list[Any] = []
    describe(values, [], found)
    return [x for x in found if isinstance(x, torch.Tensor)]


def _kind(value: Any) -> tuple[Any, ...]:
    parts: list[Any] = []
    describe(value, parts, [])
    return tuple(parts)


def element_type(graph: Graph) -> str:
    """The name of the element type that attention is computed in, as far as a glance tells."""
    products = [n for n in graph.nodes if n.op in ("matmul", "einsum", "scaled_dot_product_attention")]
    return next((_DTYPES[n.dtype] for n in [*products, *graph.inputs] if n.shape and n.dtype in _DTYPES), "f32")


@overload
def compile(
    fn: Callable[..., Any], /, *, backend: str = ..., fallback: str = ..., options: Mapping[str, Any] | None = ...
) -> CompiledAttention: ...
@overload
def compile(
    *, backend: str = ..., fallback: str = ..., options: Mapping[str, Any] | None = ...
) -> Callable[[Callable[..., Any]], CompiledAttention]: ...
def compile(
    fn: Any = None, *, backend: str = "auto", fallback: str = "warn", options: Mapping[str, Any] | None = None
) -> Any:
    """Compile a function that computes attention in plain PyTorch.

    ``backend`` is ``"auto"``, ``"cpu"``, ``"triton"`` or ``"reference"``.  ``fallback`` says what happens when
    something stays in eager PyTorch: ``"warn"``, ``"error"`` or ``"silent"``.
    """
    if backend not in BACKENDS:
        raise UsageError(f"attnc.compile: there is no backend {backend!r}{nearest(str(backend), BACKENDS)}")
    if fallback not in MODES:
        raise UsageError(f"attnc.compile: there is no fallback {fallback!r}{nearest(str(fallback), MODES)}")
    if fn is None:
        return lambda f: compile(f, backend=backend, fallback=fallback, options=options)
    if isinstance(fn, CompiledAttention):
        return CompiledAttention(fn.eager, backend, fallback, options)
    if isinstance(fn, torch.nn.Module):
        raise NotAFunctionError(
            f"attnc.compile takes a function, found the module {type(fn).__name__}; decorate the method that computes "
            "attention, such as forward"
        )
    if not callable(fn) or inspect.isclass(fn):
        raise NotAFunctionError(
            f"attnc.compile takes a function, found {type(fn).__name__} {fn!r:.60}; write @attnc.compile above a def"
        )
    return CompiledAttention(fn, backend, fallback, options)
