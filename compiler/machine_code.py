"""The machine code of a program's kernels: compiled for a GPU, which need not be there, and looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..backends.api import MachineCode
from ..ir import attn, tile
from ..ir.dtypes import itemsize, name_of
from ..ir.expr import evaluate
from .analysis import cost
from .analysis.expected import Expected, Launch, expected
from .coverage import Coverage
from .errors import StageError

if TYPE_CHECKING:
    from .lowered import Lowered

Track = Callable[[Iterable[Any], str], Iterable[Any]]  # shows progress: the items, and what is done to them


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel's machine code, and the time that the whole GPU is expected to take for all its tasks."""

    code: MachineCode
    tasks: int
    expected: Expected


def machine_code(lowered: Lowered, track: Track | None = None) -> dict[str, MachineCode]:
    """The machine code of every kernel, by name.  A kernel takes about a second."""
    if lowered.backend != "triton":
        raise StageError("machine code is reported for a GPU; lower for one, which need not be there: .on('sm_90')")
    kernels: Iterable[tile.KernelOp] = tile.kernels_of(lowered.module("tile")).values()
    if track is not None:
        kernels = track(list(kernels), f"compiling for {lowered.request.pipeline_options()['target']}")
    found = {}
    for kernel in kernels:
        artifact = lowered.request.compile_kernel(kernel, ("static",))
        found[artifact.kernel] = MachineCode.from_json(json.loads(artifact.stages["static"]))
    return found


def compiled_kernel(
    code: MachineCode, kernel: tile.KernelOp, covered: Coverage, flops: int, env: Mapping[str, int]
) -> CompiledKernel:
    """The machine code with the time that it is expected to take for sizes ``env``."""
    grid = kernel.grid.data
    tasks = math.prod(max(0, int(evaluate(d.extent, env))) for d in grid[: len(grid) - kernel.sequential.data])
    launch = Launch(
        tasks=tasks,
        resident=code.resident,
        steps=covered.full + covered.partial,
        flops=flops,
        exponentials=covered.computed_pairs,
        bytes=_moved(kernel, env),
        dtype=name_of(tile.memory_type(kernel.args[0]).element),
    )
    return CompiledKernel(code, tasks, expected(launch, cost.device(code.target)))


def _moved(kernel: tile.KernelOp, env: Mapping[str, int]) -> int:
    """Bytes of the tensors that the kernel is launched with."""
    module = kernel.parent_op()
    launches = [op for op in module.walk() if isinstance(op, tile.LaunchOp)] if module is not None else []
    own = next((op for op in launches if op.kernel.string_value() == kernel.sym_name.data), None)
    return sum(tensor_bytes(v, env) for v in (*own.operands, *own.results)) if own is not None else 0


def tensor_bytes(value: Any, env: Mapping[str, int]) -> int:
    """The size of an ``attn.tensor``; 0 for one that is known only when an eager call returns."""
    type = attn.tensor_type(value)
    try:
        return math.prod(max(0, int(evaluate(s, env))) for s in type.shape) * itemsize(type.element)
    except KeyError:
        return 0
