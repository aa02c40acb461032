"""Where a gradient kernel writes: straight into the gradient, adding to it, or into a temporary that is scattered.

An index map that is proven bijective takes plain stores.  Dimensions that it leaves out (keys shared by all heads) run
in order within a task, which adds; so do maps that miss some elements.  Any other map goes through a temporary of the
shape of the domain, whose elements ``attn.scatter`` then brings together.  No two tasks ever write the same element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from xdsl.ir import Attribute, Operation, SSAValue

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.dtypes import torch_name
from ...ir.expr import Expr, Var, free_vars, loads, substitute
from ...ir.gradient import ScatterOp
from ..analysis.bounds import max_over
from ..analysis.injective import reach
from .gradient_problem import Problem

SLICES = 4  # that a gradient may be the sum of


@dataclass(frozen=True)
class Target:
    """A memory for a gradient; ``in_order`` are the dimensions that no two tasks may differ in alone.

    With ``sum``, its first dimension counts slices, 1 or ``SLICES``, whose sum is of this type.
    """

    type: attn.TensorType
    index: tuple[Expr, ...]
    add: bool
    in_order: frozenset[str] = frozenset()
    scatter: tuple[tuple[Dim, ...], tuple[Expr, ...], attn.TensorType] | None = None
    sum: attn.TensorType | None = None

    def finish(self, written: SSAValue, problem: Problem) -> tuple[list[Operation], SSAValue]:
        """What makes the gradient of what a kernel wrote."""
        ops: list[Operation] = []
        if self.sum is not None:
            # slice after slice: the same bits however many threads do it
            text = " + ".join(f"x0[{k}]" for k in range(SLICES))
            written = _call(ops, f"x0[0] if x0.shape[0] == 1 else {text}", [written], self.sum.element, self.sum)
        if self.scatter is None:
            return ops, written
        op = scattered(written, *self.scatter, problem)
        return [*ops, op], op.output


def scattered(
    written: SSAValue, dims: Sequence[Dim], index: Sequence[Expr], type: attn.TensorType, problem: Problem
) -> ScatterOp:
    """What brings the elements of a temporary over ``dims`` together."""
    read = {load.tensor for e in index for load in loads(e)}
    captured = {n: v for n, v in problem.op.captured.items() if n in read}
    return ScatterOp(written, tuple(dims), tuple(index), type, captured)


def target(
    problem: Problem,
    axes: Sequence[Dim],
    index: tuple[Expr, ...],
    type: attn.TensorType,
    *,
    add: bool = False,
    share: bool = True,
) -> Target:
    """Where the gradient of a tensor of ``type`` goes that is read at ``index`` for the batch dimensions and ``axes``.

    ``add`` says that several tasks or steps contribute to an element anyway.  With ``share``, batch dimensions that the
    index leaves out may run in order.
    """
    dims = (*problem.batch, *axes)
    names = {d.name for d in dims}
    found = reach(index, dims, type.shape, problem.facts)
    used = set().union(*(free_vars(e) for e in index))
    if _is_outputs(index, axes, type, problem):
        found = replace(found, determined=frozenset(names & used), onto=True)
    loose = names - found.determined
    wide = attn.TensorType.of(type.shape, problem.compute)
    if loose and (not share or loose & (used | {d.name for d in axes})):
        box = attn.TensorType.of([max_over(d.extent, dims[:n]) for n, d in enumerate(dims)], problem.compute)
        return Target(box, tuple(Var(d.name) for d in dims), add, scatter=(dims, index, wide))
    if add or loose or not found.onto:
        return Target(wide, index, True, frozenset(loose))
    return Target(type, index, False)


def _is_outputs(index: Sequence[Expr], axes: Sequence[Dim], type: attn.TensorType, problem: Problem) -> bool:
    """Is this the map of the output, by other names?  That one writes each element of its tensor once."""
    if len(axes) != 2 or axes[0].extent != problem.row.extent:
        return False
    names = {axes[0].name: Var(problem.row.name), axes[1].name: Var("e")}
    same = tuple(substitute(e, names) for e in index) == problem.out_map
    return same and type.shape == attn.tensor_type(problem.op.out).shape


def total(parts: Sequence[SSAValue], type: attn.TensorType) -> tuple[list[Operation], SSAValue]:
    """The sum of contributions, at least one, as a tensor of ``type``."""
    ops: list[Operation] = []
    value, *rest = parts
    for part in rest:
        value = _call(ops, "x0 + x1", [value, part], attn.tensor_type(value).element, type)
    if attn.tensor_type(value).element != type.element:
        value = _call(ops, f"x0.to(torch.{torch_name(type.element)})", [value], type.element, type)
    return ops, value


def zeros(like: SSAValue) -> Operation:
    """The gradient of what nothing depends on."""
    return attn.CallOp("torch.zeros_like(x0)", [like], [attn.tensor_type(like)])


def _call(
    ops: list[Operation], text: str, inputs: list[SSAValue], element: Attribute, type: attn.TensorType
) -> SSAValue:
    ops.append(attn.CallOp(text, inputs, [attn.TensorType.of(type.shape, element)]))
    return ops[-1].results[0]
