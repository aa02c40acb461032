"""What a backend is: compile a ``tile.kernel`` to an :class:`Artifact`, load an artifact into a launch function.

Compiling may import anything the backend needs.  Loading and launching must import neither xDSL nor the
compiler behind the backend, because a process whose kernels are all in the disk cache does only that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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


class Backend(Protocol):
    """The five things that the driver asks of a backend."""

    name: str

    def fingerprint(self) -> str:
        """Everything of this host and of these packages that a payload depends on; cheap."""
        ...

    def pipeline_options(self, dtype: str, device: torch.device) -> dict[str, Any]:
        """Options for the passes: ``target`` for choose-tiles, ``narrow`` and ``fused`` for those that make kernels."""
        ...

    def compile(self, kernel: KernelOp, *, stages: Collection[str] = (), target: str | None = None) -> Artifact:
        """Compile one kernel; ``stages`` names extra texts to keep, which may be slow to produce."""
        ...

    def load(self, artifact: Artifact) -> Launch:
        """A function that runs the kernel."""
        ...
