"""GPU targets."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UnknownTargetError


@dataclass(frozen=True)
class Target:
    """A GPU architecture: how Triton calls it, and the bytes of shared memory that a kernel may use.

    ``threads`` are those that one multiprocessor holds at a time, ``cache`` is the last level that all of them share.
    """

    name: str
    backend: str
    arch: int | str
    warp: int
    shared: int
    threads: int = 2048
    cache: int = 40 << 20

    @property
    def asynchronous(self) -> bool:
        """Do 16-bit products run beside other instructions of the warps that started them?

        So they do on Blackwell, but there what is kept for later takes registers: 198 instead of 168 (dense, D 128).
        """
        return self.backend == "cuda" and self.arch == 90


TARGETS = {
    t.name: t
    for t in (
        Target("sm_80", "cuda", 80, 32, 163 << 10),
        Target("sm_86", "cuda", 86, 32, 99 << 10, 1536, 6 << 20),
        Target("sm_89", "cuda", 89, 32, 99 << 10, 1536, 72 << 20),
        Target("sm_90", "cuda", 90, 32, 227 << 10, cache=50 << 20),
        Target("sm_100", "cuda", 100, 32, 227 << 10, cache=126 << 20),
        Target("sm_120", "cuda", 120, 32, 99 << 10, 1536, 96 << 20),
        Target("gfx942", "hip", "gfx942", 64, 64 << 10, cache=256 << 20),
        Target("gfx950", "hip", "gfx950", 64, 160 << 10, cache=256 << 20),
    )
}
DEFAULT_TARGET = "sm_90"


def target_named(name: str) -> Target:
    """The target called ``name``."""
    if name not in TARGETS:
        raise UnknownTargetError(f"no GPU target {name!r}; choose one of {', '.join(sorted(TARGETS))}")
    return TARGETS[name]


def resident(target: Target, registers: int, warps: int, shared: int) -> int:
    """How many tasks of a kernel fit on a multiprocessor at a time: by registers of a thread, warps, shared memory."""
    if target.backend == "hip":  # four units, each with 512 registers a lane and eight waves
        waves = 4 * min(8, 512 // max(_up(registers, 8), 1))
        return max(1, min(waves // warps, target.shared // max(shared, 1)))
    # 64 Ki registers, given out to a warp at a time; each task takes a KiB of shared memory for the system
    by_registers = 65536 // (_up(registers * 32, 256) * warps) if registers else 32
    reserved = 1024
    by_memory = (target.shared + reserved) // (shared + reserved)
    return max(1, min(by_registers, by_memory, target.threads // (32 * warps), 32))


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def nearest_target(found: str) -> str:
    """The known target whose limits hold for the GPU ``found``: itself, or the newest one not newer than it."""
    if found in TARGETS:
        return found
    if found.startswith("gfx"):
        return "gfx942"
    older = [t for t in TARGETS.values() if t.backend == "cuda" and int(t.arch) <= int(found.removeprefix("sm_"))]
    if not older:
        raise UnknownTargetError(f"the GPU {found} is older than {', '.join(sorted(TARGETS))}; use the cpu backend")
    return max(older, key=lambda t: int(t.arch)).name
