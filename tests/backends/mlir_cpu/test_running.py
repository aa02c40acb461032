"""Artifacts, loading and launching."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading

import pytest
import torch

from attnc.backends import get_backend
from attnc.backends.mlir_cpu.errors import ArgumentError, ObjectFileError

from .kernels import Forward, compiled, parse_kernel

SIZES = {"B": 2, "H": 3, "N": 200, "M": 200}


def arguments() -> list[torch.Tensor]:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 200, 16) for _ in range(3)]
    return [*inputs, torch.empty(2, 3, 200, 16), torch.empty(2, 3, 200)]


@pytest.fixture(scope="module")
def artifact():
    return get_backend("cpu").compile(parse_kernel(Forward().text), stages=("llvm",))


def test_stages(artifact) -> None:
    assert "tile.reduce" in artifact.stages["mlir"]  # where each part comes from
    assert "define void @forward(" in artifact.stages["llvm"]


def test_same_bits_whatever_the_threads(artifact) -> None:
    launch, results, before = get_backend("cpu").load(artifact), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            tensors = arguments()
            launch(tensors, SIZES)
            results.append(tensors[3])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_calls_from_several_threads(artifact) -> None:
    launch = get_backend("cpu").load(artifact)
    expected = arguments()
    launch(expected, SIZES)
    wrong = []

    def work() -> None:
        for _ in range(20):
            tensors = [t.clone() for t in expected]
            tensors[3].zero_()
            launch(tensors, SIZES)
            if not torch.equal(tensors[3], expected[3]):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_runs_after_fork(artifact) -> None:
    launch = get_backend("cpu").load(artifact)
    launch(arguments(), SIZES)
    child = os.fork()
    if child == 0:
        tensors = arguments()
        launch(tensors, SIZES)
        os._exit(0 if tensors[3].data_ptr() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_loading_needs_no_compiler(artifact, tmp_path) -> None:
    (tmp_path / "kernel.o").write_bytes(artifact.payload)
    program = f"""
import sys, pathlib, torch
from attnc.backends import get_backend
from attnc.backends.api import Artifact
payload = pathlib.Path({str(tmp_path / "kernel.o")!r}).read_bytes()
launch = get_backend("cpu").load(Artifact("cpu", "forward", {{}}, payload, {artifact.meta!r}))
x = [torch.randn(1, 1, 5, 16) for _ in range(3)]
launch([*x, torch.empty(1, 1, 5, 16), torch.empty(1, 1, 5)], dict(B=1, H=1, N=5, M=5))
assert not {{"torch_mlir", "xdsl"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_text_is_the_same_every_time() -> None:
    texts = {get_backend("cpu").compile(parse_kernel(Forward().text)).stages["mlir"] for _ in range(2)}
    assert len(texts) == 1


@pytest.mark.parametrize("damage", [lambda d: d[:100], lambda d: b"\0" + d[1:], lambda d: b""])
def test_damaged_object(artifact, damage) -> None:
    with pytest.raises(ObjectFileError):
        get_backend("cpu").load(dataclasses.replace(artifact, payload=damage(artifact.payload)))


def test_wrong_arguments() -> None:
    (_, launch), tensors = compiled(Forward().text), arguments()
    with pytest.raises(ArgumentError, match="takes 5 tensors"):
        launch(tensors[:4], SIZES)
    with pytest.raises(ArgumentError, match="argument 1"):
        launch([tensors[0], tensors[1].double(), *tensors[2:]], SIZES)
