"""What the system says about the processor of this machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpuinfo(*keys: str) -> str:
    """What Linux says about the first core under one of these keys; empty where it says nothing."""
    try:
        with Path("/proc/cpuinfo").open() as file:  # a long one, where cores are many
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() in keys:
                    return value.strip()
    except OSError:
        pass
    return ""


def processor() -> str:
    """Model of the processor, for people and for what is kept by model."""
    return cpuinfo("model name") or platform.processor() or platform.machine()
