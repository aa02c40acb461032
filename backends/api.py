"""What a backend is: compile a ``tile.kernel`` to an :class:`Artifact`, load an artifact into a launch function.

Compiling may import anything the backend needs.  Loading and launching must import neither xDSL nor the
compiler behind the backend, because a process whose kernels are all in the disk cache does only that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from ..ir.tile import KernelOp

# launch(tensors, sizes): tensors in the kernel's argument order, outputs preallocated and last;
# sizes gives every size symbol that the kernel mentions.
Launch = Callable[["Sequence[torch.Tensor]", Mapping[str, int]], None]

# A forked child has none of its parent's OpenMP threads, and waiting for them would hang.  The hook is here because a
# backend may be imported in the child only.
forked = threading.Event()
os.register_at_fork(after_in_child=forked.set)


@dataclass(frozen=True)
class Artifact:
    """A compiled kernel, as it is kept on disk."""

    backend: str
    kernel: str
    stages: dict[str, str]  # stage name -> text, for the stages that were asked for or cost nothing
    payload: bytes  # what ``load`` needs besides ``meta``: an object file, a source text
    meta: dict[str, Any] = field(default_factory=dict)  # JSON values only


@dataclass(frozen=True)
class LoopCode:
    """A main loop of a GPU kernel, the innermost around matrix instructions: what one turn issues, by kind.

    ``on_chip`` accesses go to shared memory, ``memory`` accesses to global memory; ``special`` are exponentials and
    the like, and ``spill`` moves registers that did not suffice.
    """

    instructions: int
    matrix: int
    on_chip: int
    memory: int
    special: int
    spill: int


@dataclass(frozen=True)
class MachineCode:
    """What the machine code of a GPU kernel says without running it; the stage ``static`` is this as JSON.

    Bytes are of a task, registers and ``spilled_bytes`` of a thread; ``resident`` tasks fit on one multiprocessor at
    a time.
    """

    target: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    shared_limit: int
    warps: int
    stages: int
    resident: int
    instructions: int
    matrix: int
    matrix_name: str  # such as HGMMA, empty where there is none
    loops: tuple[LoopCode, ...]

    @property
    def fits(self) -> bool:
        return self.shared_bytes <= self.shared_limit

    @property
    def loop_spills(self) -> int:
        """Instructions in main loops that move spilled registers."""
        return sum(loop.spill for loop in self.loops)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> MachineCode:
        return MachineCode(**{**value, "loops": tuple(LoopCode(**loop) for loop in value["loops"])})


class Backend(Protocol):
    """What the driver asks of a backend."""

    name: str

    def fingerprint(self) -> str:
        """Everything of this host and of these packages that a payload depends on; cheap."""
        ...

    def pipeline_options(self, dtype: str, device: torch.device, target: str | None = None) -> dict[str, Any]:
        """Options for the passes: ``target`` for choose-tiles, ``narrow`` and ``fused`` for those that make kernels.

        None as ``target`` is the device at hand.
        """
        ...

    def compile(self, kernel: KernelOp, *, stages: Collection[str] = (), target: str | None = None) -> Artifact:
        """Compile one kernel; ``stages`` names extra texts to keep, which may be slow to produce."""
        ...

    def launches(self, kernel: KernelOp, target: str | None = None) -> Sequence[Mapping[str, int]]:
        """Ways to launch a kernel that an autotuner may time: attributes to set on it, the empty set first."""
        ...

    def load(self, artifact: Artifact) -> Launch:
        """A function that runs the kernel."""
        ...


@runtime_checkable
class BackgroundBackend(Backend, Protocol):
    """A backend whose compiler does not hold Python's lock: it works beside what Python does meanwhile."""

    def wake(self) -> None:
        """Something is about to be compiled: begin to load the compiler."""
        ...

    def begin(
        self, kernel: KernelOp, *, stages: Collection[str] = (), target: str | None = None
    ) -> Callable[[], Artifact]:
        """Begin what ``compile`` does; the result waits for the end."""
        ...
