"""Kernels compile beside one another, to the same bytes as alone."""

from __future__ import annotations

import threading

import pytest
import torch

import attnc
from attnc.backends.mlir_cpu import background
from attnc.backends.mlir_cpu.background import begin
from attnc.backends.mlir_cpu.errors import CpuCompileError
from attnc.backends.mlir_cpu.jit import _SAMPLE, compile_object, warm_up
from tests.patterns import BY_NAME


def test_results_and_errors_come_where_they_are_waited_for() -> None:
    assert begin(lambda: 3)() == 3
    waiting = begin(lambda: compile_object("module {", "broken"))
    with pytest.raises(CpuCompileError, match=r"kernel broken: MLIR rejected the generated code: .*:1:"):
        waiting()
    no_function = _SAMPLE.replace("math.fma", "math.oops")
    with pytest.raises(CpuCompileError, match=r"custom op 'math.oops' is unknown"):
        begin(lambda: compile_object(no_function, "sample"))()


def test_no_more_at_a_time_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background._limit, "free", threading.Semaphore(2))
    lock, at_work, most = threading.Lock(), 0, 0
    gate = threading.Barrier(2)

    def work() -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        gate.wait(30)  # only two at a time get past
        with lock:
            at_work -= 1

    for finish in [begin(work) for _ in range(6)]:
        finish()
    assert most == 2


def test_side_by_side_gives_the_same_code() -> None:
    warm_up()
    alone = compile_object(_SAMPLE, "sample")[0]
    assert {finish() for finish in [begin(lambda: compile_object(_SAMPLE, "sample")[0]) for _ in range(6)]} == {alone}


def test_all_kernels_of_a_plan_begin_before_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def record(work):
        events.append("begin")
        finish = begin(work)

        def wait():
            events.append("wait")
            return finish()

        return wait

    monkeypatch.setattr(background, "begin", record)
    case = BY_NAME["window"]
    inputs = [x.requires_grad_() for x in torch.randn(3, 1, 1, 24, 8)]
    out = attnc.compile(case.fn, backend="cpu", options={"cache": "off"})(*inputs)
    # the compiler is loaded while the program is read; the kernels of the gradient follow the one of the forward
    kernels = events.count("begin") - 2
    assert kernels >= 2
    assert events == ["begin"] * (2 + kernels) + ["wait"]
    events.clear()
    out.sum().backward()
    assert events == ["begin"] + ["wait"] * kernels
