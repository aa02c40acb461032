"""The reference backend: runs the tile program in plain PyTorch.  Slow, always right, needs only torch."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api import Artifact, Backend, Launch

if TYPE_CHECKING:
    import torch

    from ...ir.tile import KernelOp


class ReferenceBackend:
    """Keeps a kernel as its own text; launching interprets that text."""

    name = "reference"

    def fingerprint(self) -> str:
        package = Path(__file__).parents[2]
        sources = b"".join(path.read_bytes() for path in sorted((package / "ir").glob("*.py")))
        return f"reference, xdsl {version('xdsl')}, ir {hashlib.sha256(sources).hexdigest()[:16]}"

    def pipeline_options(self, dtype: str, device: torch.device, target: str | None = None) -> dict[str, Any]:
        return {"narrow": False, "target": target or "cpu-avx512", "fused": False}  # of the tiles that one may look at

    def compile(self, kernel: KernelOp, *, stages: Collection[str] = (), target: str | None = None) -> Artifact:
        from xdsl.dialects.builtin import ModuleOp

        from ...ir.text import print_module

        text = print_module(ModuleOp([kernel.clone()]))
        return Artifact(self.name, kernel.sym_name.data, {"tile": text}, text.encode())

    def launches(self, kernel: KernelOp, target: str | None = None) -> Sequence[Mapping[str, int]]:
        return [{}]

    def load(self, artifact: Artifact) -> Launch:
        kernel: Any = None

        def launch(tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> None:
            nonlocal kernel
            from ...ir.interpret import run_kernel
            from ...ir.text import parse_module
            from ...ir.tile import kernels_of

            if kernel is None:
                kernel = kernels_of(parse_module(artifact.payload.decode(), artifact.kernel))[artifact.kernel]
            run_kernel(kernel, tensors, sizes)

        return launch


def backend() -> Backend:
    """The backend, as the driver finds it."""
    return ReferenceBackend()
