"""The GPU as it is found: name, driver, clocks, and what a copy and a product of matrices reach."""

from __future__ import annotations

import statistics
import subprocess
from typing import Any

import torch
from gpu_measure import interleaved, rounded

_ASKED = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.draw"


def facts(device: str) -> dict[str, Any]:
    """Of the first GPU.  The two ceilings: bytes of a copy, read and written, and bf16 products, per second."""
    if device == "cpu":
        return {"name": "none"}
    found = torch.cuda.get_device_properties(0)
    source = torch.empty(2 << 30, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    x = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    seconds = interleaved({"copy": lambda: target.copy_(source), "product": lambda: x @ x}, device, 0.3)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "name": found.name,
        "capability": f"sm_{found.major}{found.minor}",
        "processors": found.multi_processor_count,
        "memory_gib": rounded(found.total_memory / 2**30),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "copy_gb_per_s": rounded(2 * source.nbytes / medians["copy"] / 1e9),
        "product_tflops": rounded(2 * 8192**3 / medians["product"] / 1e12),
        "state": state(),
    }


def state() -> dict[str, str]:
    """What the driver reports at this moment."""
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={_ASKED}", "--format=csv,noheader"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(_ASKED.split(","), map(str.strip, text.strip().split(",")), strict=False))
