"""Measuring candidates: each is built, judged, then takes turns with the default choice on the same inputs.

The least time of each counts: whatever else the machine does slows a call down, and nothing speeds it up.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ...ir.text import parse_module
from .. import driver
from ..plan import Plan
from .errors import WrongResultError
from .judge import Expected, cotangents, verdict
from .subject import Program, Tensors

LEAST_ROUNDS, MOST_ROUNDS = 7, 200
HOPELESS = 1.5  # times the default's time, at which a candidate is given up early
Options = Mapping[str, str]  # that force a choice; none for the compiler's own
SAMPLE = 2e-3  # seconds that one sample lasts at least


class Bench:
    """One program with inputs to time it on, and inputs whose results are known."""

    def __init__(self, program: Program, inputs: Tensors, known: Tensors, expected: Expected):
        self.program, self.inputs, self.known, self.expected = program, inputs, known, expected
        self.device = torch.device(program.device)
        self._calls: dict[str, Callable[[], Any]] = {}  # of the compiler's own choice, by direction

    def measure(self, direction: str, choice: Options, seconds: float) -> dict[str, Any]:
        """Judge a candidate, then time it.  Raises :class:`WrongResultError`."""
        entries = self.judge(direction, choice)
        calls = {"mine": self._call(direction, choice), "default": self._default(direction)}
        times = turns(calls, seconds, self.device)
        mine, other = min(times["mine"]), min(times["default"])
        return {
            "ratio": mine / other,
            "seconds": mine,
            "default_seconds": other,
            "rounds": len(times["mine"]),
            "error": max(e.error / e.limit if e.limit else 0.0 for e in entries),
        }

    def contest(self, direction: str, choices: Sequence[Options], seconds: float) -> dict[str, Any]:
        """Seconds of choices that take turns."""
        times = turns({str(n): self._call(direction, c) for n, c in enumerate(choices)}, seconds, self.device)
        return {"seconds": [min(t) for t in times.values()]}

    def judge(self, direction: str, choice: Options) -> list[Any]:
        """Compare what a candidate gives for the known inputs with what it must."""
        forward = self._plan("forward", choice if direction == "forward" else {}, self.known)
        if direction == "forward":
            results = forward.run(self.known)
        else:
            outputs, saved = self._saving(forward, self.known)
            given = cotangents(self.program, outputs)
            results = self._plan("backward", choice, self.known, forward).run([*self.known, *saved, *given])
        entries = verdict(self.expected, direction, results)
        if wrong := [e for e in entries if not e.ok]:
            e = wrong[0]
            raise WrongResultError(
                f"wrong numbers: {e.name} errs by {e.error:.3g}, the limit is {e.limit:.3g} {e.note}"
            )
        return entries

    # ---- inside

    def _default(self, direction: str) -> Callable[[], Any]:
        if direction not in self._calls:
            self._calls[direction] = self._call(direction, {})
        return self._calls[direction]

    def _call(self, direction: str, choice: Options) -> Callable[[], Any]:
        if direction == "forward":
            return partial(self._plan("forward", choice, self.inputs).run, self.inputs)
        forward = self._plan("forward", {}, self.inputs)
        outputs, saved = self._saving(forward, self.inputs)
        given = cotangents(self.program, outputs)
        return partial(self._plan("backward", choice, self.inputs, forward).run, [*self.inputs, *saved, *given])

    def _saving(self, plan: Plan, inputs: Tensors) -> tuple[Tensors, Tensors]:
        done = plan.attempt_saving(inputs)
        assert done is not None, "a plan was made for other sizes"
        return done

    def _plan(self, direction: str, choice: Options, inputs: Tensors, forward: Plan | None = None) -> Plan:
        """The plan for a choice (an empty one is the compiler's own) and for inputs of these sizes."""
        program = self.program
        module = parse_module(program.module, program.function)
        hints = dict(program.hints)
        func = _func(module)
        hints |= {name: inputs[a].shape[axis] for name, (a, axis) in func.sizes().items()}
        # nothing of a candidate is kept: the cache is for what is used again
        options = {"cache": "off", "autotune": "off", **choice}
        common: dict[str, Any] = {
            "backend": program.backend,
            "dtype": program.dtype,
            "device": self.device,
            "options": options,
            "hints": hints,
        }
        if direction == "forward":
            return driver.build(program.graph, module.clone, **common)
        assert forward is not None
        return driver.build_gradient(
            program.graph, module.clone, wanted=program.wanted, given=program.given, forward=forward, **common
        )


def turns(calls: Mapping[str, Callable[[], Any]], seconds: float, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each call in every round, in which all take turns; a round's samples last alike.

    Ends after ``seconds``, or once a first contender of two is hopeless.
    """
    for call in calls.values():
        _sample(call, 1, device)
    counts = {name: max(1, round(SAMPLE / max(_sample(call, 1, device), 1e-7))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    gc.collect()
    gc.disable()
    try:
        for n in range(MOST_ROUNDS):
            names = list(calls) if n % 2 == 0 else list(calls)[::-1]  # nobody is always second
            for name in names:
                times[name].append(_sample(calls[name], counts[name], device))
            first, *others = times.values()
            if len(others) == 1 and n >= 2 and min(first) > HOPELESS * min(others[0]):
                break
            if n + 1 >= LEAST_ROUNDS and time.perf_counter() > end:
                break
    finally:
        gc.enable()
    return times


def _sample(call: Callable[[], Any], count: int, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / count


def _func(module: Any) -> Any:
    from ...ir.attn import func_of

    return func_of(module)
