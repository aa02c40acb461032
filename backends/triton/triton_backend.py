"""What the driver asks of the triton backend."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..api import Artifact, Launch
from .errors import TritonMissingError

if TYPE_CHECKING:
    import torch

    from ...ir.tile import KernelOp

NVIDIA_STAGES = ("ttir", "ttgir", "llir", "ptx", "cubin")
AMD_STAGES = ("ttir", "ttgir", "llir", "amdgcn", "hsaco")


class TritonBackend:
    """Prints a kernel as a Triton module; Triton compiles it where and when it is first launched."""

    name = "triton"

    def fingerprint(self) -> str:
        return f"triton {_triton_version()}, printer {_source_hash()}, {current_target()}"

    def pipeline_options(self, dtype: str, device: torch.device, target: str | None = None) -> dict[str, Any]:
        narrow = dtype in ("bf16", "f16", "bfloat16", "float16")
        return {"narrow": narrow, "target": target or current_target(), "fused": False}

    def compile(self, kernel: KernelOp, *, stages: Collection[str] = (), target: str | None = None) -> Artifact:
        from .config import choose
        from .module import print_module
        from .targets import target_named
        from .widths import in_parts

        kernel = in_parts(kernel)
        goal = target_named(target or current_target())
        config = choose(kernel, goal)
        module = print_module(kernel, config)
        texts = {"triton": module.text + module.check}
        compiled: dict[str, Any] = {}
        wanted = [s for s in stages if s in NVIDIA_STAGES + AMD_STAGES]
        if "static" in stages:
            wanted.append("ptx" if goal.backend == "cuda" else "amdgcn")
        if wanted:
            from .ahead import compile_ahead

            binary, shared = compile_ahead(module, goal, config, texts, wanted)
            compiled = {"binary": binary.hex(), "shared_bytes": shared}
        meta = {
            "target": goal.name,
            "function": module.function,
            "sizes": kernel.size_names,
            "parameters": [list(p) for p in module.parameters],
            "num_warps": config.num_warps,
            "num_stages": config.num_stages,
            **compiled,
        }
        artifact = Artifact(self.name, kernel.sym_name.data, texts, module.text.encode(), meta)
        if "static" in stages:
            from .static import report

            texts["static"] = json.dumps(report(artifact).to_json())
        return artifact

    def launches(self, kernel: KernelOp, target: str | None = None) -> Sequence[Mapping[str, int]]:
        from .config import candidates
        from .targets import target_named
        from .widths import in_parts

        default, *others = map(asdict, candidates(in_parts(kernel), target_named(target or current_target())))
        return [{}, *({name: int(value) for name, value in o.items() if value != default[name]} for o in others)]

    def load(self, artifact: Artifact) -> Launch:
        from .launch import launcher

        if find_spec("triton") is None:
            raise TritonMissingError("the triton backend needs the package triton: pip install 'triton>=3.6'")
        return launcher(artifact)


@cache
def current_target() -> str:
    """The GPU of this machine, or the default to compile for where there is none."""
    import torch

    from .targets import DEFAULT_TARGET, nearest_target

    if not torch.cuda.is_available():
        return DEFAULT_TARGET
    if torch.version.hip:
        return nearest_target(torch.cuda.get_device_properties(0).gcnArchName.split(":")[0])
    major, minor = torch.cuda.get_device_capability()
    return nearest_target(f"sm_{major}{minor}")


@cache
def _source_hash() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]


def _triton_version() -> str:
    try:
        return version("triton")
    except PackageNotFoundError:
        return "not installed"
