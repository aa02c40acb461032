"""Facts of a compiled kernel that need no GPU: registers, spills, shared memory, matrix instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..api import Artifact
from .errors import StaticToolError
from .targets import Target, target_named

# One line of assembly that uses a matrix unit.
_MATRIX = re.compile(r"^\s*(?:@\S+\s+)?(wgmma\.mma_async|mma\.sync|tcgen05\.mma|v_s?mfma_)", re.MULTILINE)


@dataclass(frozen=True)
class StaticReport:
    """What the assembler says about a kernel; sizes in bytes."""

    target: str
    registers: int
    spills: int
    shared_bytes: int
    shared_limit: int
    mma_count: int

    @property
    def fits(self) -> bool:
        return self.shared_bytes <= self.shared_limit


def report(artifact: Artifact) -> StaticReport:
    """The facts of an artifact that was compiled with the stage ``ptx`` or ``amdgcn``."""
    target = target_named(artifact.meta["target"])
    stage = "ptx" if target.backend == "cuda" else "amdgcn"
    if stage not in artifact.stages:
        raise StaticToolError(f"kernel {artifact.kernel} was compiled without the stage {stage}: ask compile() for it")
    assembly = artifact.stages[stage]
    registers, spills = _nvidia(assembly, target) if target.backend == "cuda" else _amd(assembly)
    return StaticReport(
        target.name, registers, spills, artifact.meta["shared_bytes"], target.shared, len(_MATRIX.findall(assembly))
    )


def _amd(assembly: str) -> tuple[int, int]:
    def field(name: str) -> int:
        match = re.search(rf"\.{name}:\s*(\d+)", assembly)
        return int(match[1]) if match else 0

    # scalar registers spill to lanes of vector registers, not to memory
    return field("vgpr_count"), 4 * field("vgpr_spill_count")


def _nvidia(ptx: str, target: Target) -> tuple[int, int]:
    arch = re.search(r"^\.target\s+(\w+)", ptx, re.MULTILINE)
    with tempfile.TemporaryDirectory(prefix="attnc-") as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [str(_ptxas(target)), "-v", f"--gpu-name={arch[1] if arch else target.name}"]
        command += [str(source), "-o", str(source.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StaticToolError(f"ptxas rejected the kernel for {target.name}: {done.stderr.strip()}")
    registers = re.search(r"Used (\d+) registers", done.stderr)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)
    return int(registers[1]) if registers else 0, sum(int(n) for n in spills)


def _ptxas(target: Target) -> Path:
    """The assembler that comes with Triton."""
    from triton.backends.nvidia.compiler import get_ptxas

    return Path(get_ptxas(target.arch).path)
