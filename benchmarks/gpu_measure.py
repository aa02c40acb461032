"""One case of the GPU run: ours and the rivals take turns on the same tensors, each with a cold L2 cache."""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from gpu_patterns import Attention, as_written, live_pairs, ours
from gpu_plan import FLEX, RIVALS, Case
from gpu_rivals import AbsentError, rival
from torch import Tensor

Call = Callable[[], Any]
FLUSHED = 512 << 20  # bytes written before each call: more than any L2, and long enough to hide the launch
SECONDS = 1.5  # of timed calls for each case
ROUNDS = (5, 40)
SAME = 0.02  # of the norm: beyond it two results in bf16 are not the same


def measure(case: Case, device: str, tuned: bool) -> dict[str, Any]:
    """A row of the results: medians, ratios, spread, useful work, first calls, and who is absent and why."""
    inputs = make_inputs(case, device)
    given = torch.randn_like(inputs[0])
    calls: dict[str, Call] = {}
    row: dict[str, Any] = {"setup_s": {}, "first_call_s": {}, "absent": {}, "difference": {}}
    row["flex tiles"] = "searched" if tuned else "default"
    wanted = {"attnc": partial(ours, case)} | {n: partial(rival, n, case, device, tuned) for n in RIVALS}
    if case.dry:  # most rivals want a GPU
        wanted["eager"] = partial(as_written, case)
    reference: list[Tensor] = []
    for name, make in wanted.items():
        try:
            start = time.perf_counter()
            attention = make()
            synchronize(device)
            row["setup_s"][name] = rounded(time.perf_counter() - start)
            start = time.perf_counter()
            call = directed(attention, case, inputs, given)
            result = call()
            synchronize(device)
            row["first_call_s"][name] = rounded(time.perf_counter() - start)
        except Exception as error:
            row["absent"][name] = reason(error)
            if name == "attnc":
                row["traceback"] = traceback.format_exc()
            continue
        results = list(result) if isinstance(result, tuple) else [result]
        if name == "attnc":
            reference = results
        elif reference:
            row["difference"][name] = rounded(max(map(relative, reference, results)))
        calls[name] = call
        del result, results
    del reference
    if not calls:
        return row
    row["right"] = all(x <= SAME for x in row["difference"].values()) if row["difference"] else None
    seconds = interleaved(calls, device, SECONDS if device != "cpu" else 0.0)
    work = useful_work(case, device, inputs)
    return summary(seconds, work) | row | {"seconds": {n: list(map(rounded, x)) for n, x in seconds.items()}}


def prepare(case: Case, device: str) -> dict[str, Any]:
    """Fill PyTorch's caches on disk with FlexAttention's kernels, so that measuring does not wait for its compiler."""
    inputs = make_inputs(case, device)
    call = directed(rival(FLEX, case, device, tuned=False), case, inputs, torch.randn_like(inputs[0]))
    call()
    synchronize(device)
    return {}


def make_inputs(case: Case, device: str) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device != "cpu" else torch.float32
    query, key = case.shapes
    q, k, v = (torch.randn(shape, device=device, dtype=dtype) for shape in (query, key, key))
    return q, k, v


def directed(attention: Attention, case: Case, inputs: tuple[Tensor, ...], given: Tensor) -> Call:
    """The forward without gradients; or the backward of one forward, which is made here."""
    if case.direction == "forward":
        return torch.no_grad()(partial(attention, *inputs))
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attention(*leaves)
    return lambda: torch.autograd.grad(out, leaves, given, retain_graph=True)


def interleaved(calls: Mapping[str, Call], device: str, budget: float) -> dict[str, list[float]]:
    """Seconds of every call, in turns: as many rounds as the budget allows."""
    timer = _gpu_seconds if device != "cpu" else _cpu_seconds
    flush = torch.empty(FLUSHED if device != "cpu" else 0, dtype=torch.int8, device=device)
    rounds = 2
    if budget:
        for call in calls.values():
            timer(call, flush)
        once = sum(timer(call, flush) for call in calls.values())
        rounds = min(max(int(budget / once), ROUNDS[0]), ROUNDS[1])
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in calls.items():
                seconds[name].append(timer(call, flush))
    finally:
        gc.enable()
    return seconds


def _gpu_seconds(call: Call, flush: Tensor) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flush.zero_()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _cpu_seconds(call: Call, flush: Tensor) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def useful_work(case: Case, device: str, inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """Floating-point operations of the live pairs, and for a decode step the bytes of keys and values."""
    q, k, v = inputs
    products = 4 if case.direction == "forward" else 10  # two, and five for the gradients; two operations each
    work: dict[str, float] = {"flop": products * live_pairs(case, device) * q.shape[0] * q.shape[1] * q.shape[3]}
    if case.pattern == "decode":
        work["bytes"] = k.nbytes + v.nbytes
    return work


def summary(seconds: Mapping[str, list[float]], work: Mapping[str, float]) -> dict[str, Any]:
    """Ratios first."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    found: dict[str, Any] = {"ratio": {}}
    if "attnc" in medians:
        found["ratio"] = {n: rounded(m / medians["attnc"]) for n, m in medians.items() if n != "attnc"}
    found["median_ms"] = {n: rounded(m * 1e3) for n, m in medians.items()}
    found["spread"] = {n: rounded(spread(times)) for n, times in seconds.items()}
    found["tflops"] = {n: rounded(work["flop"] / m / 1e12) for n, m in medians.items()}
    if "bytes" in work:
        found["gb_per_s"] = {n: rounded(work["bytes"] / m / 1e9) for n, m in medians.items()}
    return found


def spread(times: list[float]) -> float:
    """Half the distance between the quartiles, over the median."""
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / 2 / middle


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Distance over norm; infinite if not a number."""
    x, y = ours.float(), theirs.float()
    found = ((x - y).norm() / y.norm()).item()
    return found if found == found else float("inf")


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def reason(error: BaseException) -> str:
    """The first lines of an error."""
    text = " ".join(str(error).split())[:600]
    return text if isinstance(error, AbsentError) else f"{type(error).__name__}: {text}"


def rounded(value: float) -> float:
    return float(f"{value:.4g}")
