"""What attnc makes of a function's gradient: kernels, tiles, pairs and products."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..backends.api import MachineCode
from ..ir import attn, tile
from ..ir.errors import AttncError
from ..ir.expr import Expr
from ..ir.gradient import AttendGradientOp
from .analysis.cost import predicted
from .analysis.devices import Device, device
from .analysis.space import Choice
from .coverage import Coverage, coverage, loops_of
from .machine_code import CompiledKernel, Track, compiled_kernel, machine_code
from .passes.common import work_of

if TYPE_CHECKING:
    from .lowered import Lowered


@dataclass(frozen=True)
class BackwardKernel:
    """A kernel of the gradient: rows of queries or of keys in tiles, and loops over the other ones."""

    name: str
    tiles: tuple[int, int]  # rows of a task x step of its loops; the step is 0 where there is no loop
    order: str  # "queries x keys" or "keys x queries"
    ranges: tuple[str, ...]  # of the loops
    coverage: Coverage
    flops: int
    compiled: CompiledKernel | None = None  # what its machine code says, where that was asked for


@dataclass(frozen=True)
class Backward:
    """The program of gradients.  ``eager`` counts what PyTorch runs in it; ``reason`` says why there is none."""

    kernels: list[BackwardKernel] = field(default_factory=list)
    eager: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    seconds: float | None = None  # predicted, of one core; None for a GPU
    why: str = ""  # how its tiles came about, if not by the cost model

    @property
    def compiled(self) -> bool:
        return not self.reason

    @property
    def computed_pairs(self) -> int:
        """Pairs of a query and a key, counted each time that a kernel computes them."""
        return sum(k.coverage.computed_pairs for k in self.kernels)

    @property
    def flops(self) -> int:
        return sum(k.flops for k in self.kernels)

    @property
    def expected_seconds(self) -> float | None:
        """Expected time of the kernels on the whole GPU; None where their machine code was not asked for."""
        if not self.kernels or any(k.compiled is None for k in self.kernels):
            return None
        return sum(k.compiled.expected.seconds for k in self.kernels if k.compiled is not None)

    def __str__(self) -> str:
        from .explain_text import backward_text

        return backward_text(self)


def explain_backward(
    lowered: Lowered, sizes: Mapping[str, int], compiled: bool = False, track: Track | None = None
) -> Backward:
    """Explain the gradient of a lowered function by all its floating arguments; ``compiled`` as for ``explain``."""
    try:
        program = lowered.backward()
        before, after = program.after("choose-tiles"), program.after("key-ranges")
        code = machine_code(program, track) if compiled else {}
    except AttncError as error:
        return Backward(reason=str(error))
    gradients = [op for op in before.walk() if isinstance(op, AttendGradientOp)]
    queries = {op.domain[-1].name for op in gradients}
    kernels = [_kernel(k, queries, sizes, code) for k in tile.kernels_of(after).values()]
    ops = [op.name for op in attn.func_of(after).body.block.ops if not isinstance(op, (tile.LaunchOp, attn.ReturnOp))]
    on = device(str(program.request.pipeline_options()["target"]))
    facts = attn.func_of(before).facts
    seconds = None if on.is_gpu else sum(_seconds(op, facts, on, sizes) for op in gradients)
    tuned = program.request.tuned
    why = tuned.record.words if tuned else program.set_aside
    return Backward(kernels, dict(sorted(Counter(ops).items())), seconds=seconds, why=why)


def _seconds(op: AttendGradientOp, facts: tuple[Expr, ...], on: Device, sizes: Mapping[str, int]) -> float:
    assert op.tiles is not None
    return predicted(work_of(op, facts), on, Choice(*op.tiles.data), sizes, gradient=True)


def _kernel(
    kernel: tile.KernelOp, queries: set[str], sizes: Mapping[str, int], code: Mapping[str, MachineCode]
) -> BackwardKernel:
    covered, rows, name = coverage(kernel, sizes), kernel.rows.data, kernel.sym_name.data
    loops = loops_of(kernel)
    flops = covered.computed_pairs * _flops_of_a_pair(kernel)
    return BackwardKernel(
        name,
        (rows.size, max((x.step for x in loops), default=0)),
        "queries x keys" if rows.name in queries else "keys x queries",
        tuple(f"{x.kind} [{r.lo}, {r.hi})" for x in loops for r in x.ranges),
        covered,
        flops,
        compiled_kernel(code[name], kernel, covered, flops, sizes) if name in code else None,
    )


def _flops_of_a_pair(kernel: tile.KernelOp) -> int:
    """Of the products in one loop; those in the other loops are the same."""
    loop = next((op for op in kernel.body.walk() if isinstance(op, tile.ForOp)), None)
    if loop is None:
        return 0
    pair = {loop.axis.data, kernel.rows.data.name}
    products = [op for op in loop.body.walk() if isinstance(op, tile.DotOp)]
    axes = [tile.tile_type(p.lhs).shape | tile.tile_type(p.rhs).shape for p in products]
    return sum(2 * math.prod(n for name, n in a.items() if name not in pair) for a in axes)
