"""What the code generator knows about a CPU: vector width, registers, special instructions."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """A family of CPUs.  ``accumulators`` is how many vector registers a register block may fill."""

    name: str
    vector_bytes: int
    accumulators: int
    block_vectors: int  # lane vectors of one register block
    scalef: bool = False  # has 2**n scaling of vectors (vscalefps)
    pairs: bool = False  # has sums of two products of bf16 (vdpbf16ps)
    tiles: bool = False  # has matrix registers that multiply bf16 (AMX)

    def lanes(self, element: str) -> int:
        """Elements of a vector of ``f32`` or ``f64``."""
        return self.vector_bytes // (8 if element == "f64" else 4)

    def block(self, vectors: int) -> tuple[int, int]:
        """Shape of a register block for tiles ``vectors`` wide: (lane vectors, rows)."""
        wide = max(n for n in range(1, self.block_vectors + 1) if vectors % n == 0)
        return wide, max(1, min(self.accumulators // wide, 8))


TARGETS = {
    # 16 accumulators of 32 registers: with the operands that is enough to hide the latency of fma on two ports
    "avx512": Target("avx512", 64, 16, 4, scalef=True),
    "avx512bf16": Target("avx512bf16", 64, 16, 4, scalef=True, pairs=True),
    "avx512amx": Target("avx512amx", 64, 16, 4, scalef=True, tiles=True),
    "avx2": Target("avx2", 32, 12, 2),
    "neon": Target("neon", 16, 16, 4),
    "generic": Target("generic", 16, 8, 2),
}


@cache
def cpu_features() -> tuple[str, ...]:
    """Instruction set extensions of this host, sorted; empty where the system does not tell."""
    return tuple(sorted(set(_cpuinfo("flags", "Features").split())))


def _cpuinfo(*keys: str) -> str:
    """What Linux says about the first CPU under one of these keys; empty where it says nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


@cache
def tiles_permitted() -> bool:
    """Has this host matrix registers for bf16, and does the system let this process use them?  Asks for it."""
    if not {"amx_tile", "amx_bf16", "avx512_bf16"} <= set(cpu_features()):
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    try:
        return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0
    except (OSError, AttributeError):
        return False


@cache
def host_target() -> Target:
    """The best target that this host runs."""
    features = set(cpu_features())
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= features:
        if tiles_permitted():
            return TARGETS["avx512amx"]
        # measured: products of bf16 take half the time of fma on Zen 4, twice the time on Sapphire Rapids
        return replace(TARGETS["avx512"], pairs="avx512_bf16" in features and _cpuinfo("vendor_id") == "AuthenticAMD")
    if {"avx2", "fma"} <= features:
        return TARGETS["avx2"]
    if platform.machine() in ("aarch64", "arm64"):
        return TARGETS["neon"]
    return TARGETS["generic"]


def target_named(name: str | None) -> Target:
    """``"cpu-avx2"`` or ``"avx2"``; None is the host."""
    host = host_target()
    if name is None or name.removeprefix("cpu-") == host.name:
        return host
    return TARGETS[name.removeprefix("cpu-")]
