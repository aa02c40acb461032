"""How long a GPU is expected to take for a kernel whose machine code is known.

The cost model that chooses tiles ranks them on one multiprocessor.  Here the whole device counts: tasks come in rounds,
tasks that share a multiprocessor hide each other's waits, and memory is shared by all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .cost import EXPONENTIAL, Device


@dataclass(frozen=True)
class Launch:
    """One launch: its tasks, how many of them a multiprocessor holds, and the work of all of them."""

    tasks: int
    resident: int
    steps: int  # of the loops
    flops: int
    exponentials: int
    bytes: int  # at least moved
    dtype: str


@dataclass(frozen=True)
class Expected:
    """Seconds of the whole launch, and those that arithmetic alone and memory alone would take."""

    seconds: float
    arithmetic: float
    memory: float
    rounds: int  # in which the tasks are run


def expected(launch: Launch, on: Device) -> Expected:
    """The larger of memory traffic and of the arithmetic of the multiprocessor that has most to do."""
    if not launch.tasks:
        return Expected(0.0, 0.0, 0.0, 0)
    peak = on.peak.get(launch.dtype, on.peak["f32"])
    work = (launch.flops / 2 / peak + launch.exponentials * EXPONENTIAL / on.peak["f32"]) / launch.tasks
    waits = launch.steps / launch.tasks * on.step
    most = math.ceil(launch.tasks / on.processors)
    rounds = math.ceil(most / launch.resident)
    memory = launch.bytes / (on.bandwidth * on.processors)
    # either the units are busy all the time, or each task waits for its own steps
    busy = max(most * work, rounds * (work + waits))
    return Expected(max(busy, memory), work * launch.tasks / on.processors, memory, rounds)
