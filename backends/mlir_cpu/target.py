"""What the code generator knows about a CPU: vector width, registers, special instructions.

Kernels for this host use whatever it has.  A target that is asked for by name gets its own instruction set and no
more, so that its code can be inspected, tested on hosts that have more, and moved.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache

from ..host import cpuinfo
from .errors import CpuTargetError


@dataclass(frozen=True)
class Target:
    """A family of CPUs.  ``accumulators`` is how many vector registers a register block may fill."""

    name: str
    vector_bytes: int
    accumulators: int
    block_vectors: int  # lane vectors of one register block
    machine: str = ""  # architecture, as LLVM's triples spell it; empty for this host's
    cpu: str = ""  # LLVM's name of the simplest CPU of the family; empty for this host
    extensions: tuple[str, ...] = ()  # LLVM's names of what it may use besides; if none, it uses all of this host's
    requires: tuple[str, ...] = ()  # what a host must have, as Linux calls it
    scalef: bool = False  # has 2**n scaling of vectors (vscalefps)
    rounds: bool = False  # has rounding of f32 to bf16 (vcvtneps2bf16)
    pairs: bool = False  # sums of two products of bf16 (vdpbf16ps) are fast
    dots_pairs: bool = False  # has them, fast or not: even so they save widening what is used once
    tiles: bool = False  # has matrix registers that multiply bf16 (AMX)

    def lanes(self, element: str) -> int:
        """Elements of a vector of ``f32`` or ``f64``."""
        return self.vector_bytes // (8 if element == "f64" else 4)

    def block(self, vectors: int) -> tuple[int, int]:
        """Shape of a register block for tiles ``vectors`` wide: (lane vectors, rows)."""
        wide = max(n for n in range(1, self.block_vectors + 1) if vectors % n == 0)
        return wide, max(1, min(self.accumulators // wide, 8))

    @property
    def runs_here(self) -> bool:
        """Has this host the architecture, and so LLVM a code generator for it?"""
        return self.machine in ("", host_machine())

    @property
    def attributes(self) -> tuple[str, str]:
        """Attributes of a module and of its functions that keep LLVM within the instruction set."""
        if not self.cpu:
            return "", ""
        features = ", ".join(f'"+{name}"' for name in self.extensions)
        return (
            f'attributes {{llvm.target_triple = "{self.machine}-unknown-linux-gnu"}} ',
            f'attributes {{target_cpu = "{self.cpu}", target_features = #llvm.target_features<[{features}]>}} ',
        )


_AVX2 = ("avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe")
_AVX512 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
# 24 accumulators of 32 registers: 16 hide the latency of fma on two ports, but a taller block reads its operands and
# ends less often, which counts where another thread shares the core (Intel)
_avx512 = Target("avx512", 64, 24, 4, "x86_64", "x86-64-v4", ("avx512f",), (*_AVX2, *_AVX512), scalef=True)

_BF16, _AMX = ("avx512f", "avx512bf16"), ("amx_tile", "amx_bf16")
_avx512bf16 = replace(
    _avx512, name="avx512-bf16", extensions=_BF16, requires=(*_avx512.requires, "avx512_bf16"),
    accumulators=16, rounds=True, pairs=True, dots_pairs=True,
)  # fmt: skip

TARGETS = {
    t.name: t
    for t in (
        _avx512,
        _avx512bf16,
        replace(
            _avx512bf16, name="avx512-amx", extensions=(*_BF16, "amx-tile", "amx-bf16"),
            requires=(*_avx512bf16.requires, *_AMX), accumulators=24, pairs=False, tiles=True,
        ),
        Target("avx2", 32, 12, 3, "x86_64", "x86-64-v3", ("avx2",), _AVX2),
        Target("neon", 16, 16, 4, "aarch64", "generic", ("neon",), ("asimd",)),
        Target("generic", 16, 8, 2),
    )
}  # fmt: skip


def host_machine() -> str:
    """Architecture of this host, as LLVM's triples spell it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@cache
def cpu_features() -> tuple[str, ...]:
    """Instruction set extensions of this host, sorted; empty where the system does not tell."""
    return tuple(sorted(set(cpuinfo("flags", "Features").split())))


@cache
def tiles_permitted() -> bool:
    """Has this host matrix registers for bf16, and does the system let this process use them?  Asks for it."""
    if not set(TARGETS["avx512-amx"].requires) <= set(cpu_features()):
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    try:
        return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0
    except (OSError, AttributeError):
        return False


@cache
def host_target() -> Target:
    """The best target that this host runs, free to use everything that the host has."""
    has = set(cpu_features()).issuperset
    bf16 = has(("avx512_bf16",))
    if tiles_permitted():
        found = TARGETS["avx512-amx"]
    elif has(TARGETS["avx512-bf16"].requires) and cpuinfo("vendor_id") == "AuthenticAMD":
        # measured: products of bf16 take half the time of fma on Zen 4, twice the time on Sapphire Rapids
        found = TARGETS["avx512-bf16"]
    elif has(_AVX512):
        found = replace(_avx512, rounds=bf16, dots_pairs=bf16)
    elif has(("avx2", "fma")):
        found = TARGETS["avx2"]
    else:
        found = TARGETS["neon" if host_machine() == "aarch64" else "generic"]
    return replace(found, machine="", cpu="", extensions=(), requires=())


def target_named(name: str | None) -> Target:
    """``"cpu-avx2"`` or ``"avx2"``; None is the host.  Raises :class:`CpuTargetError`."""
    if name is None:
        return host_target()
    if (short := name.removeprefix("cpu-")) not in TARGETS:
        known = ", ".join(f"cpu-{n}" for n in TARGETS)
        raise CpuTargetError(f"there is no CPU target {name!r}; targets: {known}")
    return TARGETS[short]


def check_runs_here(name: str, machine: str, requires: Collection[str]) -> None:
    """Raise :class:`CpuTargetError` if code that needs these would not run on this host."""
    if machine not in ("", host_machine()):
        raise CpuTargetError(f"{name} is for {machine} and cannot run on this host, which is {host_machine()}")
    if (features := cpu_features()) and (lacking := [r for r in requires if r not in features]):
        raise CpuTargetError(f"{name} uses {', '.join(lacking)}, which this host lacks")
