"""What the autotuner is given: a call of a compiled function as a program, its inputs, and how it runs as written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..compiler import driver
from ..compiler.autotune.errors import StorageError, TuningError, TuningWarning
from ..compiler.autotune.subject import Program, Subject
from ..compiler.autotune.tuner import tune
from ..compiler.oracle import EagerMode
from ..ir.text import print_module
from .bind import ORDINARY, key_of
from .compiled import CompiledAttention, compile, element_type
from .recompute import Call
from .specialise import Specialisation

if TYPE_CHECKING:
    from .graph import Graph


def plain(fn: Callable[..., Any]) -> CompiledAttention:
    """The function compiled without the results of earlier tuning."""
    options = {**getattr(fn, "options", {}), "autotune": "off"}
    eager = getattr(fn, "eager", fn)
    return compile(eager, backend=getattr(fn, "backend", "auto"), fallback="silent", options=options)


def subject(compiled: CompiledAttention, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Subject:
    """A call as the autotuner takes it, with the gradients of all floating tensors."""
    values = compiled._binder.values(args, kwargs)
    key, leaves, low = key_of(values)
    arguments = dict(zip(compiled._binder.names, values, strict=True))
    found, inputs = compiled._specialise(key, values, arguments, leaves)
    return _subject(compiled, found, values, leaves, inputs, low, wanted=None)


def tune_call(
    compiled: CompiledAttention,
    found: Specialisation,
    values: tuple[Any, ...],
    leaves: Sequence[Any],
    inputs: Sequence[Any],
    directions: tuple[str, ...],
) -> bool:
    """Tune for the first call of a kind: backward only if it will be differentiated.  Returns whether it was tried."""
    tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
    if not tensors or any(type(x) not in ORDINARY or x.is_meta for x in tensors):
        return False  # somebody traces the call, and there is nothing to measure
    wanted = tuple(n for n, x in enumerate(inputs) if isinstance(x, torch.Tensor) and x.requires_grad)
    wanted = wanted if torch.is_grad_enabled() else ()
    if directions := tuple(d for d in directions if d == "forward" or wanted):
        low = key_of(values)[2]
        try:
            tune(_subject(compiled, found, values, leaves, inputs, low, wanted), directions=directions)
        except (TuningError, StorageError) as error:  # the call is what the user is after
            where = found.graph.location
            text = f"{where}: {found.graph.name} is not tuned: {error}"
            warnings.warn_explicit(text, TuningWarning, where.file, where.line)
    return bool(directions)


def _subject(
    compiled: CompiledAttention,
    found: Specialisation,
    values: tuple[Any, ...],
    leaves: Sequence[Any],
    inputs: Sequence[Any],
    low: torch.dtype | None,
    wanted: tuple[int, ...] | None,
) -> Subject:
    from .raising import raise_graph

    if found.random:
        raise TuningError(f"{found.graph.name} draws random numbers, so that results cannot be compared")
    graph: Graph = compiled.trace_values(values)
    text, hints = graph.text(), dict(graph.hints)  # before anything is assumed to raise it
    module = raise_graph(graph).module
    tensors = [x.detach() for x in found.tensors(inputs)]
    floating = tuple(n for n, x in enumerate(inputs) if isinstance(x, torch.Tensor) and x.is_floating_point())
    nodes = graph.output_nodes()
    program = Program(
        function=graph.name,
        graph=text,
        module=print_module(module),
        backend=driver.select_backend(compiled.backend, found.device),
        dtype=element_type(graph),
        device=str(found.device),
        hints={k: v for k, v in hints.items() if isinstance(v, int | float)},
        wanted=floating if wanted is None else wanted,
        given=tuple(n for n, node in enumerate(nodes) if node.dtype.is_floating_point),
    )
    call = Call.of(compiled, found, values, len(leaves), inputs, low)

    def eager(new: Sequence[torch.Tensor], double: bool) -> list[torch.Tensor]:
        with EagerMode(double):
            return call.eager(found, new)

    return Subject(program, tensors, eager)
