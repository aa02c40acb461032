"""Facts of a compiled kernel that need no GPU: registers, spills, shared memory, and what its main loops issue.

An NVIDIA kernel is disassembled by the tool that comes with Triton; where there is none, its PTX is counted and its
assembler asked.  An AMD kernel's assembly says everything itself.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from ..api import Artifact, LoopCode, MachineCode
from .assembly import Listing, read
from .errors import StaticToolError
from .targets import Target, resident, target_named


def report(artifact: Artifact) -> MachineCode:
    """The facts of an artifact that was compiled with the stage ``ptx`` or ``amdgcn``."""
    target = target_named(artifact.meta["target"])
    stage = "ptx" if target.backend == "cuda" else "amdgcn"
    if stage not in artifact.stages:
        raise StaticToolError(f"kernel {artifact.kernel} was compiled without the stage {stage}: ask compile() for it")
    text = artifact.stages[stage]
    if target.backend == "hip":
        listing, (registers, spilled) = read(text, "amdgcn"), _amd(text)
    elif found := _disassembled(bytes.fromhex(artifact.meta["binary"])):
        listing, registers = read(found[0], "sass"), found[1]
        spilled = listing.spilled()
    else:
        listing, (registers, spilled) = read(text, "ptx"), _assembled(text, target)
    shared, warps = artifact.meta["shared_bytes"], artifact.meta["num_warps"]
    return MachineCode(
        target=target.name,
        registers=registers,
        spilled_bytes=spilled,
        shared_bytes=shared,
        shared_limit=target.shared,
        warps=warps,
        stages=artifact.meta["num_stages"],
        resident=resident(target, registers, warps, shared),
        instructions=len(listing.instructions),
        matrix=listing.count()["matrix"],
        matrix_name=_matrix_name(listing),
        loops=tuple(_loop(listing, first, last) for first, last in listing.main_loops()),
    )


def _loop(listing: Listing, first: int, last: int) -> LoopCode:
    counts = listing.count(first, last + 1)
    kinds = {kind: counts[kind] for kind in listing.syntax.kinds}
    return LoopCode(instructions=counts["all"], **kinds)


def _matrix_name(listing: Listing) -> str:
    """The matrix instruction that a kernel uses, without its types."""
    pattern = listing.syntax.kinds["matrix"]
    names = sorted({found[0] for name, _ in listing.instructions if (found := re.match(pattern, name))})
    return ", ".join(names)


def _amd(assembly: str) -> tuple[int, int]:
    def field(name: str) -> int:
        match = re.search(rf"\.{name}:\s*(\d+)", assembly)
        return int(match[1]) if match else 0

    # scalar registers spill to lanes of vector registers, not to memory
    return field("vgpr_count"), 4 * field("vgpr_spill_count")


def _disassembled(binary: bytes) -> tuple[str, int] | None:
    """The machine code of a cubin as text, and its registers; None where Triton brings no tools, or older ones."""
    from triton import knobs

    listing, usage = knobs.nvidia.nvdisasm, knobs.nvidia.cuobjdump
    if listing is None or usage is None:
        return None
    with tempfile.NamedTemporaryFile(prefix="attnc-", suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        commands = [listing.path, "-c", "-ndf", file.name], [usage.path, "-res-usage", file.name]
        code, said = (subprocess.run(c, capture_output=True, text=True, check=False) for c in commands)
    registers = re.search(r"\bREG:(\d+)", said.stdout)
    return (code.stdout, int(registers[1])) if code.returncode == 0 and registers else None


def _assembled(ptx: str, target: Target) -> tuple[int, int]:
    """Registers and spilled bytes, as the assembler tells them."""
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
