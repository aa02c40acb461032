"""What devices are good at: the figures that the cost model works with."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...ir.errors import AttncError

ELEMENT_BYTES = {"f64": 8, "f32": 4, "bf16": 2, "f16": 2}


class UnknownTargetError(AttncError):
    """A target name that no device has."""


@dataclass(frozen=True, slots=True)
class Device:
    """One core of a CPU, or one multiprocessor of a GPU.

    ``peak`` is multiply-adds per second by dtype; ``fast`` is the size in bytes of the memory that a tile must
    fit in (level-1 cache, or shared memory); ``step`` is the price in seconds of one step of a key loop.
    """

    name: str
    lanes: int  # 32-bit lanes of a vector register (CPU); 0 on a GPU
    peak: dict[str, float]
    bandwidth: float
    fast: int
    registers: int  # bytes of accumulators that fit registers
    step: float
    vectors: int = 0  # lane vectors of a tile of queries that registers like best (CPU)
    matrix: bool = False  # a CPU with matrix registers for bf16
    height: int = 4  # keys of a register block as wide as the tile (CPU): steps are multiples of it
    processors: int = 1  # multiprocessors of a GPU
    near: float = 0.0  # bytes a second from the second-level cache (CPU)
    far: float = 0.0  # and from what lies behind it
    second: int = 0  # bytes of the second-level cache
    exponential: float = 0.0  # seconds of a vector of exponentials, read and written
    coarse: float = 0.0  # the same where results are rounded to bf16
    task: float = 0.0  # seconds in which a task begins and ends
    load: float = 0.0  # cycles that a load takes from multiply-adds beside it (CPU)
    call: float = 0.0  # seconds of a launch (CPU)
    units: int = 2  # whole vectors that are multiplied and added in a cycle (CPU)
    together: float = 1.0  # what a core reaches of its own peak while all others work (CPU)
    operands: bool = False  # a GPU where scores and the probabilities made of them are in registers at once

    @property
    def is_gpu(self) -> bool:
        return not self.lanes

    def __hash__(self) -> int:
        return hash(self.name)


def _cpu(
    name: str,
    lanes: int,
    fast: int,
    bf16: float = 1.0,
    vectors: int = 4,
    matrix: bool = False,
    height: int = 4,
    second: int = 1 << 20,
    exponential: float = 8,
    units: int = 2,
    step: float = 30e-9,
    task: float = 200e-9,
    load: float = 0.15,
) -> Device:
    """``exponential`` is in cycles."""
    cycle = 1 / 2.5e9
    f32 = lanes * units / cycle
    return Device(
        name,
        lanes,
        peak={"f32": f32, "f64": f32 / 2, "bf16": f32 * bf16, "f16": f32},
        bandwidth=8e9,
        fast=fast,
        registers=32 * lanes * 4,
        step=step,
        vectors=vectors,
        matrix=matrix,
        height=height,
        near=2 * lanes / cycle,
        far=10e9,
        second=second,
        exponential=exponential * cycle,
        coarse=exponential * 0.8 * cycle,
        task=task,
        load=load,
        call=10e-6,
        units=units,
    )


def _gpu(
    name: str,
    half: float,
    single: float,
    double: float,
    bandwidth: float,
    cores: int,
    fast: int,
    operands: bool = False,
) -> Device:
    peak = {"f16": half, "bf16": half, "f32": single, "f64": double}
    each = {k: v / 2 / cores for k, v in peak.items()}
    registers = (112 if operands else 128) << 10
    return Device(name, 0, each, bandwidth / cores, fast, registers, 400e-9, processors=cores, operands=operands)


DEVICES = {
    d.name: d
    for d in (
        _cpu("cpu-avx512", 16, 48 << 10, height=6, second=2 << 20),
        # Zen 4: vectors of 16 go through in halves, and multiply-adds hide loads, jumps and much else
        _cpu("cpu-avx512-bf16", 16, 32 << 10, bf16=2.0, exponential=12, units=1, step=5e-9, task=50e-9, load=0.005),
        _cpu("cpu-avx512-amx", 16, 48 << 10, bf16=8.0, matrix=True, height=6, second=2 << 20),
        # of 16 registers, blocks of 3 vectors and 4 rows fill all; blocks of 2 and 6 take 10 % longer
        _cpu("cpu-avx2", 8, 32 << 10, vectors=3, exponential=14),
        _cpu("cpu-neon", 4, 64 << 10, exponential=14),
        _cpu("cpu-generic", 4, 32 << 10, exponential=14),
        # peak rates of the whole device: matrix units for halves, plain multiply-adds for f32 and f64, whose
        # products must not lose bits; then memory bandwidth, multiprocessors, shared memory of one
        _gpu("sm_80", 312e12, 19.5e12, 9.7e12, 2.0e12, 108, 163 << 10, operands=True),
        _gpu("sm_90", 990e12, 67e12, 34e12, 3.35e12, 132, 227 << 10),
        _gpu("sm_100", 2250e12, 80e12, 40e12, 8.0e12, 148, 227 << 10, operands=True),
        _gpu("gfx942", 1300e12, 163e12, 81e12, 5.3e12, 304, 64 << 10),
    )
}


_measured: dict[str, Device] = {}


def add_measured(on: Device) -> None:
    """Make a device with figures of its own known by its name, ``cpu-avx512@<digest of the figures>``."""
    _measured[on.name] = on


def device(target: str) -> Device:
    """The device called ``target``; a newer GPU counts as the newest known.  Raises :class:`UnknownTargetError`."""
    if target in DEVICES:
        return DEVICES[target]
    if target in _measured:
        return _measured[target]
    if "@" in target and (base := target.partition("@")[0]) in DEVICES:
        raise UnknownTargetError(
            f"the figures of {target!r} were measured on another machine, or measured anew since; use {base!r}"
        )
    if match := re.fullmatch(r"sm_(\d+)a?", target):
        known = sorted((int(name[3:]), name) for name in DEVICES if name.startswith("sm_"))
        older = [name for number, name in known if number <= int(match[1])]
        return DEVICES[older[-1] if older else known[0][1]]
    if target.startswith("gfx"):
        return DEVICES["gfx942"]
    raise UnknownTargetError(f"there is no target {target!r}; targets: {', '.join(DEVICES)}")
