"""What a call costs beside its arithmetic, and whether a hundred patterns in one process change that.

``overhead`` compares calls for tiny inputs with SDPA's.  ``many`` compiles patterns that differ in their mask, with an
empty cache, and gives for each ten of them the first call, a later call of the newest and of the oldest, and the memory
that the process has grown by.
"""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
from cpu_patterns import dense
from harness import Call, Comparison, arguments, compare, save
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attnc

TINY, SMALL = (1, 1, 16, 16), (1, 2, 128, 32)
REPEATS = 200  # calls timed together
GOAL = 15e-6  # seconds above SDPA


def overhead(rounds: int) -> Iterator[Comparison]:
    """Forward calls, without and with a gradient to come."""
    for case, wanted in (("tiny", False), ("tiny, requires_grad", True)):
        q, k, v = (torch.randn(TINY, requires_grad=wanted) for _ in range(3))

        def many(fn: Callable[..., Tensor], q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Call:
            def run() -> None:
                for _ in range(REPEATS):
                    fn(q, k, v)

            return run

        found = compare(case, {"attnc": many(dense), "SDPA": many(scaled_dot_product_attention)}, rounds)
        found.seconds = {who: [t / REPEATS for t in times] for who, times in found.seconds.items()}
        yield found


def banded(reach: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A function with a mask of its own for each number."""

    def band(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        i = torch.arange(q.shape[-2])[:, None]
        j = torch.arange(k.shape[-2])[None, :]
        return (q @ k.mT).masked_fill((i - j).abs() > reach, float("-inf")).softmax(-1) @ v

    return band


def resident() -> float:
    """Megabytes of memory that the process holds; its peak where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def many(count: int) -> tuple[list[Comparison], list[float]]:
    """Times of ``count`` patterns by tens, and the memory after each ten."""
    inputs = [torch.randn(SMALL) for _ in range(3)]
    functions: list[attnc.CompiledAttention] = []
    rows: list[Comparison] = []
    memory = [resident()]

    def timed(fn: attnc.CompiledAttention) -> float:
        start = time.perf_counter()
        fn(*inputs)
        return time.perf_counter() - start

    def later(fn: attnc.CompiledAttention) -> float:
        return statistics.median(timed(fn) for _ in range(20))

    for n in track(range(count), "patterns", transient=True):
        if n % 10 == 0:
            rows.append(Comparison(f"{n + 1} to {n + 10}", {"first call": [], "later call": [], "of the oldest": []}))
        functions.append(attnc.compile(banded(n + 1), backend="cpu", fallback="error"))
        found = timed(functions[-1]), later(functions[-1]), later(functions[0])
        for times, seconds in zip(rows[-1].seconds.values(), found, strict=True):
            times.append(seconds)
        if n % 10 == 9:
            memory.append(resident())
    return rows, memory


def main() -> None:
    args = arguments((__doc__ or "").split("\n", 1)[0], rounds=21, patterns=100)
    console = Console()
    calls = list(overhead(3 if args.quick else args.rounds))
    table = Table(title=f"microseconds (goal: {1e6 * GOAL:g} above SDPA)", title_justify="left", title_style="")
    for head in ("call", "attnc", "SDPA", "above"):
        table.add_column(head, justify="left" if head == "call" else "right")
    for c in calls:
        ours, theirs = (1e6 * m for m in c.medians.values())
        table.add_row(c.case, f"{ours:.1f}", f"{theirs:.1f}", f"{ours - theirs:.1f}")
    console.print(table)

    with tempfile.TemporaryDirectory() as cache:
        os.environ["ATTNC_CACHE_DIR"] = cache
        rows, memory = many(20 if args.quick else args.patterns)
    table = Table(title="patterns in one process", title_justify="left", title_style="")
    for head in ("patterns", "first call, ms", "later call, us", "of the oldest, us", "memory, MB"):
        table.add_column(head, justify="left" if head == "patterns" else "right")
    for c, size in zip(rows, memory[1:], strict=True):
        first, late, oldest = c.medians.values()
        table.add_row(c.case, f"{1e3 * first:.0f}", f"{1e6 * late:.0f}", f"{1e6 * oldest:.0f}", f"{size:.0f}")
    console.print(table)
    if not args.quick:
        setup = {"tiny": TINY, "small": SMALL, "goal": GOAL, "megabytes": memory}
        print(save("calls", [*calls, *rows], setup))


if __name__ == "__main__":
    main()
