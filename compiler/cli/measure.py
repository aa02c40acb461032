"""``attnc explain --run``: how long a function takes, beside what its device could do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import StageError
from ..explain_text import unit
from ..targets import load_target
from .inputs import derive
from .lowering import compiled

if TYPE_CHECKING:
    from ..explain import Explanation

LEAST_SECONDS = 0.5  # of each measurement
MOST_RUNS = 50


def measured(
    page: Explanation,
    target: str,
    shape: str | None,
    arg: Sequence[str] | None,
    dtype: str,
    device: str,
    backend: str,
    backward: bool,
) -> str:
    """One line for the forward pass, another for the backward if asked."""
    import torch

    host = compiled(load_target(target), backend)
    args, kwargs = derive(load_target(target), shape, arg, dtype, device, data=True)
    if device == "cpu" and not page.target.startswith("cpu"):
        raise StageError(f"--run measures this machine, and the page is about {page.target}; leave out --target")
    cores = torch.get_num_threads() if device == "cpu" else torch.cuda.get_device_properties(0).multi_processor_count
    core = "core" if device == "cpu" else "multiprocessor"
    with torch.no_grad():
        seconds = median(lambda: host(*args, **kwargs))
    lines = [f"measured      {page.roofline.measured(seconds, cores, core)}"]
    expected = page.seconds / cores
    lines.append(f"predicted     {unit(expected, 1000, 's')} there, {expected / seconds:.2g} of what was measured")
    if backward:
        lines.append(f"backward      {_backward(host, args, kwargs)}")
    return "\n".join(lines)


def _backward(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    import torch

    leaves = [x for x in args if isinstance(x, torch.Tensor) and x.is_floating_point()]
    for x in leaves:
        x.requires_grad_()
    out = function(*args, **kwargs)
    results = [x for x in (out if isinstance(out, (tuple, list)) else [out]) if x.requires_grad]
    given = [torch.ones_like(x) for x in results]
    return unit(
        median(lambda: torch.autograd.grad(results, leaves, given, retain_graph=True, allow_unused=True)), 1000, "s"
    )


def median(call: Callable[[], Any]) -> float:
    """Seconds of a call; the first ones compile it and warm it up."""
    import torch

    def once() -> float:
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once(), once()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < LEAST_SECONDS and len(times) < MOST_RUNS):
        times.append(once())
    return statistics.median(times)
