"""Calls that PyTorch watches or transforms: torch.compile, torch.export, fake and meta tensors, functorch, subclasses.

A kernel writes memory behind PyTorch's back, so such a call goes through the ops of :mod:`.library`, which say what
they mean for shapes, gradients and batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..compiler.oracle import EagerMode
from .bind import describe, key_of, replace_leaves
from .errors import TransformError
from .locate import with_text
from .programs import Program, program_of
from .standin import ordinary, stand_in
from .trace import where_defined

if TYPE_CHECKING:
    from .compiled import CompiledAttention
    from .specialise import Specialisation


def call_observed(compiled: CompiledAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call while something looks on.  Dynamo traces the first lines."""
    if torch.compiler.is_dynamo_compiling():
        from . import dynamo

        return dynamo.call(compiled, args, kwargs)
    if torch._C._get_tracing_state() is not None:
        raise TransformError(
            f"{with_text(where_defined(compiled.eager))}: torch.jit.trace cannot record a call of a compiled function, "
            "and TorchScript has no way to run one; use torch.compile or torch.export, or trace its .eager"
        )
    return call_through_op(compiled, compiled._binder.values(args, kwargs))


def call_through_op(compiled: CompiledAttention, values: tuple[Any, ...]) -> Any:
    """A call by way of ``torch.ops.attnc``, for arguments of any kind of tensor."""
    leaves: list[Any] = []
    describe(values, [], leaves)
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    if tensors and all(x.is_meta for x in tensors):  # only shapes are asked for
        return compiled._binder.call(compiled.eager, values)
    found = specialised(
        compiled, replace_leaves(values, [stand_in(x) if isinstance(x, torch.Tensor) else x for x in leaves])
    )
    arguments = dict(zip(compiled._binder.names, values, strict=True))
    inputs = found.inputs(arguments, leaves)
    assert inputs is not None, "captured values are as they were a moment ago"
    program = program_of(found, compiled)
    if _forward_mode():
        program.warn(inputs, "it is differentiated in forward mode, which kernels are not")
        with EagerMode(double=False):
            return compiled._binder.call(compiled.eager, values)
    refuse_random(found)
    return found.pick(run(program, inputs), inputs)


def run(program: Program, inputs: list[Any]) -> list[torch.Tensor]:
    """The resulting tensors, by the op."""
    from . import library

    some = next(x for x in inputs if isinstance(x, torch.Tensor))  # whatever kind of tensor that is
    tensors = [x if isinstance(x, torch.Tensor) else some.new_full((), x, dtype=torch.float64) for x in inputs]
    saving = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return list(library.run(program.name, tensors, saving))[: program.results]


def specialised(compiled: CompiledAttention, values: tuple[Any, ...]) -> Specialisation:
    """What is compiled for these arguments, without running it."""
    key, leaves, _ = key_of(values)
    arguments = dict(zip(compiled._binder.names, values, strict=True))
    with ordinary():
        return compiled._specialise(key, values, arguments, leaves)[0]


def refuse_random(found: Specialisation) -> None:
    """An op that draws random numbers would be merged with its like, or run twice."""
    if found.random:
        raise TransformError(
            f"{with_text(found.graph.location)}: {found.graph.name} draws random numbers (dropout?), which is possible "
            "in plain eager calls only; draw them outside and pass them as an argument"
        )


def _forward_mode() -> bool:
    from torch._C._functorch import TransformType, get_interpreter_stack

    return any(level.key() == TransformType.Jvp for level in get_interpreter_stack() or ())
