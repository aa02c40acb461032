"""``torch.ops.attnc``: compiled functions as ops of PyTorch.

``run`` is a call, ``run_backward`` its gradient.  They are for all who look at a program from outside (torch.compile,
torch.export, functorch, fake tensors); a plain eager call does without.  Both name their program (:mod:`.programs`)
and are given every tensor that it reads, captured ones included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .programs import Program, program
from .smooth import is_smooth

Tensors = Sequence[torch.Tensor]
_KEEP: list[Any] = []  # a library of PyTorch lives as long as its object


def define() -> None:
    """Make the ops.  Importing this module does it."""
    library = torch.library.Library("attnc", "DEF")
    _KEEP.append(library)
    tags = (torch.Tag.pt2_compliant_tag,)
    library.define("run(str program, Tensor[] inputs, bool saving) -> Tensor[]", tags=tags)
    library.define(
        "run_backward(str program, Tensor[] inputs, Tensor[] kept, Tensor[] gradients, int[] given, int[] wanted)"
        " -> Tensor[]",
        tags=tags,
    )
    library.impl("run", _run, "CompositeExplicitAutograd")
    library.impl("run_backward", _run_backward, "CompositeExplicitAutograd")
    torch.library.register_fake("attnc::run", _run_fake, lib=library)
    torch.library.register_fake("attnc::run_backward", _run_backward_fake, lib=library)
    torch.library.register_autograd("attnc::run", _run_gradient, setup_context=_run_context, lib=library)
    torch.library.register_autograd(
        "attnc::run_backward", _second_gradient, setup_context=_run_backward_context, lib=library
    )
    torch.library.register_vmap("attnc::run", _run_batched, lib=library)
    torch.library.register_vmap("attnc::run_backward", _run_backward_batched, lib=library)


def run(name: str, inputs: Tensors, saving: bool) -> Sequence[torch.Tensor]:
    """The op, also where functorch transforms the call: it knows gradients of functions, not those of ops."""
    if torch._C._are_functorch_transforms_active():
        return _Run.apply(name, saving, *inputs)
    return torch.ops.attnc.run(name, inputs, saving)


def run_backward(
    name: str, inputs: Tensors, kept: Tensors, gradients: Tensors, given: Sequence[int], wanted: Sequence[int]
) -> Sequence[torch.Tensor]:
    """The same for the gradient."""
    if torch._C._are_functorch_transforms_active():
        return _RunBackward.apply(name, (len(inputs), len(kept)), given, wanted, *inputs, *kept, *gradients)
    return torch.ops.attnc.run_backward(name, inputs, kept, gradients, given, wanted)


# ---- run


def _run(name: str, inputs: Tensors, saving: bool) -> list[torch.Tensor]:
    return program(name).forward(inputs, saving)


def _run_fake(name: str, inputs: Tensors, saving: bool) -> list[torch.Tensor]:
    device = next(x.device for x in inputs if x.dim())
    shapes = program(name).shapes(inputs, saving, lambda: torch.library.get_ctx().new_dynamic_size())
    return [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in shapes]


def _run_context(ctx: Any, inputs: tuple[str, Tensors, bool], output: Tensors) -> None:
    ctx.program, tensors, saving = inputs
    found = program(ctx.program)
    kept = [output[n] for n in found.saved] if saving else []
    ctx.inputs = len(tensors)
    ctx.save_for_backward(*tensors, *kept)
    results = output[: found.results]
    fixed = [x for x in results if not is_smooth(x.dtype)]
    ctx.mark_non_differentiable(*fixed, *output[found.results :])
    ctx.set_materialize_grads(False)


def _run_gradient(ctx: Any, gradients: Sequence[torch.Tensor | None]) -> Any:
    return None, _input_gradients(ctx, ctx.needs_input_grad[1], gradients), None


def _input_gradients(ctx: Any, needs: Sequence[bool], gradients: Sequence[torch.Tensor | None]) -> Any:
    results = gradients[: program(ctx.program).results]
    given = [n for n, g in enumerate(results) if g is not None]
    wanted = [n for n, need in enumerate(needs) if need]
    tensors, kept = ctx.saved_tensors[: ctx.inputs], ctx.saved_tensors[ctx.inputs :]
    result: list[torch.Tensor | None] = [None] * ctx.inputs
    if given and wanted:
        found = run_backward(ctx.program, list(tensors), list(kept), [results[n] for n in given], given, wanted)
        for n, g in zip(wanted, found, strict=True):
            result[n] = g
    return result


def _run_batched(info: Any, in_dims: Any, name: str, inputs: Tensors, saving: bool) -> Any:
    def each(slices: Sequence[Tensors]) -> Any:
        return run(name, slices[0], saving)

    return _looped(info.batch_size, [in_dims[1]], [inputs], each)


# ---- run_backward


def _run_backward(
    name: str, inputs: Tensors, kept: Tensors, gradients: Tensors, given: Sequence[int], wanted: Sequence[int]
) -> list[torch.Tensor]:
    found = program(name)
    return found.backward(inputs, kept, _spread(found, gradients, given), _needs(inputs, wanted))


def _run_backward_fake(
    name: str, inputs: Tensors, kept: Tensors, gradients: Tensors, given: Sequence[int], wanted: Sequence[int]
) -> list[torch.Tensor]:
    return [torch.empty(inputs[n].shape, dtype=inputs[n].dtype, device=inputs[n].device) for n in wanted]


def _run_backward_context(ctx: Any, inputs: Any, output: Tensors) -> None:
    ctx.program, tensors, kept, gradients, ctx.given, ctx.wanted = inputs
    ctx.counts = len(tensors), len(kept), len(gradients)
    ctx.save_for_backward(*tensors, *gradients)
    ctx.set_materialize_grads(False)


def _second_gradient(ctx: Any, seconds: Sequence[torch.Tensor | None]) -> Any:
    inputs, kept, _ = ctx.counts
    needs = ctx.needs_input_grad[1] or [False] * inputs, ctx.needs_input_grad[3]
    first, second = _second_gradients(ctx, *needs, seconds)
    return None, first, [None] * kept, second, None, None


def _second_gradients(
    ctx: Any, needs: Sequence[bool], first_needs: Sequence[bool], seconds: Sequence[torch.Tensor | None]
) -> tuple[list[torch.Tensor | None], list[torch.Tensor | None]]:
    """Through the function as written; the residuals are functions of the inputs and have no part in it."""
    inputs = ctx.counts[0]
    tensors, first = list(ctx.saved_tensors[:inputs]), list(ctx.saved_tensors[inputs:])
    result: list[torch.Tensor | None] = [None] * (len(tensors) + len(first))
    sources = [n for n, need in enumerate([*needs, *first_needs]) if need]
    reached = [(n, g) for n, g in zip(ctx.wanted, seconds, strict=True) if g is not None]
    if not reached:
        return result[:inputs], result[inputs:]
    wanted = [n for n, _ in reached]

    def gradients(*new: torch.Tensor) -> list[torch.Tensor]:
        both = [*tensors, *first]
        for n, x in zip(sources, new, strict=True):
            both[n] = x
        return program(ctx.program).written(both[:inputs], wanted, ctx.given, both[inputs:], SECOND)

    _, pull = torch.func.vjp(gradients, *([*tensors, *first][n] for n in sources))
    for n, g in zip(sources, pull([g for _, g in reached]), strict=True):
        result[n] = g
    return result[:inputs], result[inputs:]


SECOND = "it is itself differentiated, and compiled gradients are not"


def _run_backward_batched(
    info: Any,
    in_dims: Any,
    name: str,
    inputs: Tensors,
    kept: Tensors,
    gradients: Tensors,
    given: Sequence[int],
    wanted: Sequence[int],
) -> Any:
    def each(slices: Sequence[Tensors]) -> Any:
        values, saved, first = slices
        return run_backward(name, values, saved, first, given, wanted)

    return _looped(info.batch_size, in_dims[1:4], [inputs, kept, gradients], each)


# ---- for functorch


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(name: str, saving: bool, *inputs: torch.Tensor) -> Any:
        return tuple(torch.ops.attnc.run(name, list(inputs), saving))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        name, saving, *tensors = inputs
        _run_context(ctx, (name, tensors, saving), output)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Any:
        return None, None, *_input_gradients(ctx, ctx.needs_input_grad[2:], gradients)

    @staticmethod
    def vmap(info: Any, in_dims: Any, name: str, saving: bool, *inputs: torch.Tensor) -> Any:
        return _flat(_run_batched(info, (None, list(in_dims[2:]), None), name, inputs, saving))


class _RunBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        name: str, counts: tuple[int, int], given: Sequence[int], wanted: Sequence[int], *tensors: torch.Tensor
    ) -> Any:
        return tuple(torch.ops.attnc.run_backward(name, *_parts(counts, tensors), given, wanted))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        name, counts, given, wanted, *tensors = inputs
        _run_backward_context(ctx, (name, *_parts(counts, tensors), given, wanted), output)

    @staticmethod
    def backward(ctx: Any, *seconds: torch.Tensor | None) -> Any:
        inputs, kept, _ = ctx.counts
        needs = ctx.needs_input_grad[4:]
        first, second = _second_gradients(ctx, needs[:inputs], needs[inputs + kept :], seconds)
        return None, None, None, None, *first, *[None] * kept, *second

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        name: str,
        counts: tuple[int, int],
        given: Sequence[int],
        wanted: Sequence[int],
        *tensors: torch.Tensor,
    ) -> Any:
        dims = (None, *_parts(counts, in_dims[4:]), None, None)
        return _flat(_run_backward_batched(info, dims, name, *_parts(counts, tensors), given, wanted))


def _parts(counts: tuple[int, int], values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    inputs, kept = counts
    return list(values[:inputs]), list(values[inputs : inputs + kept]), list(values[inputs + kept :])


def _flat(batched: tuple[list[torch.Tensor], list[int]]) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
    return tuple(batched[0]), tuple(batched[1])


# ---- helpers


def _spread(found: Program, gradients: Tensors, given: Sequence[int]) -> list[torch.Tensor | None]:
    result: list[torch.Tensor | None] = [None] * found.results
    for n, g in zip(given, gradients, strict=True):
        result[n] = g
    return result


def _needs(inputs: Tensors, wanted: Sequence[int]) -> list[bool]:
    return [n in wanted for n in range(len(inputs))]


def _looped(size: int, dims: Sequence[Any], lists: Sequence[Tensors], each: Any) -> Any:
    """One call for each element of the batch.  An empty batch runs once, on zeros, for the shapes of its results."""
    rows: list[list[torch.Tensor]] = []
    for b in range(max(size, 1)):
        slices = [
            [_row(x, dim, b, size) for x, dim in zip(tensors, part or [None] * len(tensors), strict=True)]
            for tensors, part in zip(lists, dims, strict=True)
        ]
        rows.append(each(slices))
    stacked = [torch.stack(column)[:size] for column in zip(*rows, strict=True)]
    return stacked, [0] * len(stacked)


def _row(x: torch.Tensor, dim: int | None, b: int, size: int) -> torch.Tensor:
    if dim is None:
        return x
    return x.select(dim, b) if size else x.new_zeros(x.shape[:dim] + x.shape[dim + 1 :])


define()
