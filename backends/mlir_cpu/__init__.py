"""CPU backend: generated MLIR, compiled by torch-mlir, run on PyTorch's threads.

Data flow: ``plan`` (fusion) and ``buffers`` (scratch) decide, ``lower`` with ``passes``, ``dots``, ``row_dot``,
``transfers`` and ``expressions`` writes MLIR, ``jit`` compiles on threads of ``background``, ``object_file`` and
``launcher`` run without the compiler.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ..api import Artifact, Backend, Launch
from .target import TARGETS, check_runs_here, cpu_features, host_target, target_named

if TYPE_CHECKING:
    import torch

    from ...ir.tile import KernelOp

DTYPES = {"f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16", "i64": "int64", "i32": "int32",
          "i16": "int16", "i8": "int8", "i1": "bool"}  # fmt: skip


class CpuBackend:
    """See :class:`~attnc.backends.api.BackgroundBackend`."""

    name = "cpu"

    @cache  # noqa: B019  there is one instance
    def fingerprint(self) -> str:
        try:
            compiler = metadata.version("torch-mlir")
        except metadata.PackageNotFoundError:
            compiler = "absent"
        features = hashlib.sha256(" ".join(cpu_features()).encode()).hexdigest()[:16]
        return f"cpu {host_target().name} {features}; torch-mlir {compiler}"

    def pipeline_options(self, dtype: str, device: torch.device, target: str | None = None) -> dict[str, Any]:
        target = target or f"cpu-{host_target().name}"
        on = TARGETS.get(target.removeprefix("cpu-").partition("@")[0])  # choose-tiles tells of names that are none
        # matrix registers, and instructions for pairs, take probabilities in bf16 only
        narrow = dtype == "bf16" and on is not None and (on.tiles or on.pairs)
        return {"target": target, "narrow": narrow, "fused": True}

    def wake(self) -> None:
        from .background import begin
        from .jit import warm_up

        begin(warm_up)

    def compile(self, kernel: KernelOp, *, stages: Collection[str] = (), target: str | None = None) -> Artifact:
        return self.begin(kernel, stages=stages, target=target)()

    def begin(
        self, kernel: KernelOp, *, stages: Collection[str] = (), target: str | None = None
    ) -> Callable[[], Artifact]:
        from .background import begin
        from .jit import compile_object
        from .lower import lower, memory_element

        on = target_named(target)
        lowered = lower(kernel, on)
        name = kernel.sym_name.data
        meta = {
            "name": name,
            "arguments": kernel.names,
            "ranks": lowered.ranks,
            "dtypes": [DTYPES[memory_element(a.type)] for a in kernel.args],
            "sizes": lowered.sizes,
            "index_factor": lowered.limits.factor,
            "scratch_bytes": lowered.scratch_bytes,
            "needs": [f"kernel {name} for cpu-{on.name}", on.machine, list(on.requires)],
            "flat": True,  # launched with numbers in place of tensors
        }
        compiled = begin(lambda: compile_object(lowered.text, name, want_llvm="llvm" in stages, native=on.runs_here))

        def finish() -> Artifact:
            payload, llvm = compiled()
            texts = {"mlir": lowered.text} | ({"llvm": llvm} if llvm else {})
            return Artifact("cpu", name, texts, payload, meta)

        return finish

    def launches(self, kernel: KernelOp, target: str | None = None) -> Sequence[Mapping[str, int]]:
        return [{}]

    def load(self, artifact: Artifact) -> Launch:
        from .launcher import CompiledKernel

        check_runs_here(*artifact.meta["needs"])
        return CompiledKernel(artifact.payload, artifact.meta)


@cache
def backend() -> Backend:
    """The one instance."""
    return CpuBackend()
