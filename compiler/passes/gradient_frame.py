"""The frame of a gradient kernel: arguments, grid, launch.

A frame offers every tensor of the problem and every op that a body may want; closing it drops what was not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from xdsl.dialects.builtin import ArrayAttr, StringAttr
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import Rewriter

from ...ir import attn, tile
from ...ir.attributes import Dim, strings
from ...ir.expr import Var, loads, op
from .gradient_problem import Problem, tensors_of
from .gradient_segments import Segments
from .kernel_builder import KernelBuilder, batch_grid, fresh, inherit, memory_of, row_tiles

_NAMES = {"query": "q", "out": "o", "d_out": "do", "weights": "w", "lse": "lse", "d_lse": "dlse", "delta": "delta"}


class Frame:
    """A kernel under construction: rows ``rows`` in tiles, ``outputs`` by the names of their memories.

    ``given`` are tensors of numbers for each row, by role: ``delta``, ``weights``.  ``sequential`` names batch
    dimensions that run in order within a task; ``tiles_in_order`` adds the tiles of rows, by ``segments``.
    """

    def __init__(
        self,
        problem: Problem,
        name: str,
        rows: Dim,
        outputs: Mapping[str, attn.TensorType],
        *,
        given: Mapping[str, SSAValue] | None = None,
        sequential: Sequence[str] = (),
        tiles_in_order: bool = False,
        segments: Segments | None = None,
    ):
        self.problem = problem
        taken = set(problem.taken) | ({segments.dim.name} if segments else set())
        sizes = problem.sizes(rows.name)
        count, axis = row_tiles(fresh("t", taken), rows, problem.batch, sizes[rows.name])
        batch = batch_grid(problem.batch)
        last = [d for d in batch if d.name in sequential]
        grid = [*(d for d in batch if d.name not in sequential), count, *last]
        if segments is not None:
            grid.insert(grid.index(count), segments.dim)
            own = segments.owns(Var(segments.counted or count.name))
            axis = replace(axis, bound=op("where", own, axis.bound, 0))

        tensors = tensors_of(problem.op) | dict(given or {})
        captured = problem.op.captured
        names = (
            [fresh(_hint(role), taken) for role in tensors] + list(captured) + [fresh(_hint(n), taken) for n in outputs]
        )
        self.inputs = [*tensors.values(), *captured.values()]
        self.types = list(outputs.values())
        written = [tile.MemType.of(len(t.shape), t.element) for t in self.types]
        types = [memory_of(v) for v in self.inputs] + written
        in_order = len(last) + tiles_in_order
        self.kernel = tile.KernelOp(name, names, types, len(outputs), grid, axis, sequential=in_order)
        inherit(problem.op, self.kernel)
        self.builder = KernelBuilder(self.kernel, sizes, problem.compute)
        self.memory = dict(
            zip([*tensors, *(f"capture:{c}" for c in captured), *outputs], self.kernel.args, strict=True)
        )

    def hint(self, output: str) -> str:
        """What to call values that go to an output."""
        return _hint(output)

    def close(self, taken: set[str]) -> tuple[tile.KernelOp, tile.LaunchOp]:
        """The kernel without what nothing needs, and its launch; its name differs from those taken."""
        _drop_dead(self.kernel.body.block.ops)
        kernel = self.kernel
        kernel.properties["sym_name"] = StringAttr(fresh(kernel.sym_name.data, taken))
        read = {load.tensor for inner in kernel.body.walk() for e in tile.op_exprs(inner) for load in loads(e)}
        inputs, names = [], []
        for arg, name, value in zip(list(kernel.body.block.args), kernel.names, self.inputs, strict=False):
            if arg.uses.get_length() or name in read:
                inputs.append(value)
                names.append(name)
            else:
                kernel.body.block.erase_arg(arg)
        names += kernel.names[len(self.inputs) :]
        kernel.properties["arg_names"] = ArrayAttr(strings(names))
        launch = tile.LaunchOp(kernel.sym_name.data, inputs, self.types)
        inherit(self.problem.op, launch)
        for value, name in zip(launch.outputs, names[len(inputs) :], strict=True):
            value.name_hint = name
        return kernel, launch


def _hint(role: str) -> str:
    """The name of a memory: ``dq`` and the like are names already, ``grad0:bias`` is the gradient of ``bias``."""
    if role.startswith("grad"):
        return f"d_{role.partition(':')[2]}"
    return role if role in ("dq", "dk", "dv") else _NAMES.get(role) or role[0]


def _drop_dead(ops: Iterable[Operation]) -> None:
    for old in reversed(list(ops)):
        for region in old.regions:
            _drop_dead(region.block.ops)
        if old.results and not any(r.uses.get_length() for r in old.results):
            if not any(isinstance(inner, tile.StoreOp | tile.BandAddOp) for inner in old.walk()):
                Rewriter.erase_op(old)
