"""Time to the first result, by what it is made of: modules imported, code emitted, garbage left, never by a clock."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from xdsl.ir import Operation

import attnc
from attnc.compiler import collector
from tests.patterns import BY_NAME, Pattern

# Lines of MLIR for each loop over keys, which has register blocks of 16, 4 and 4 vectors, and around the loops:
# a little more than what the patterns below take, so that a kernel that grows is noticed.
PER_LOOP, AROUND = 24 * 50, 1000
LATER = ("xdsl", "torch_mlir", "triton", "islpy", "attnc.ir.text", "attnc.compiler.passes",
         "attnc.frontends.raising", "attnc.backends.mlir_cpu.lower")  # fmt: skip
CALL = """
import sys, torch, attnc
from tests.patterns import causal
inputs = [x.requires_grad_() for x in torch.randn(3, 1, 2, 40, 16)]
attnc.compile(causal, backend="cpu", fallback="error")(*inputs).sum().backward()
print([m for m in sys.argv[1:] if m in sys.modules])
"""


def mlir_of(pattern: Pattern) -> str:
    inputs = pattern.inputs(1, 2, 64, 64, 64)
    return attnc.compile(pattern.fn, backend="cpu").lower(*inputs).ir("mlir")


def test_from_the_disk_cache_without_compilers(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[1])
    loaded = []
    for _ in range(2):
        env = os.environ | {"ATTNC_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", CALL, *LATER], cwd=root, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        loaded.append(done.stdout.strip())
    assert "torch_mlir" in loaded[0]
    assert loaded[1] == "[]"


@pytest.mark.parametrize("name", ["dense", "window", "dilated", "hierarchical", "alibi", "dense_bias", "gqa"])
def test_kernels_stay_small(name: str) -> None:
    for kernel in mlir_of(BY_NAME[name]).split("// kernel ")[1:]:
        assert kernel.count("\n") <= AROUND + PER_LOOP * kernel.count("// tile.for ")


@pytest.mark.parametrize("name", ["dense", "causal"])
def test_a_transpose_is_emitted_once(name: str) -> None:
    text = mlir_of(BY_NAME[name])
    functions = re.findall(r"llvm.func internal @(\w+)\((?:.*\n)*? }", text)
    assert sorted(functions) == sorted(set(re.findall(r"llvm.call @(\w+)\(", text)))
    body = text[: text.index("llvm.func internal")]
    assert "vector.shuffle" not in body
    (lanes,) = {int(n) for n in re.findall(r"vector.shuffle .* : vector<(\d+)xf32>", text)}
    assert text.count("vector.shuffle") == len(functions) * lanes * (lanes.bit_length() - 1)


def test_compilations_leave_no_ir_behind() -> None:
    def live() -> int:
        gc.collect()
        return sum(issubclass(type(x), Operation) for x in gc.get_objects())

    counts = []
    for width in (8, 12, 20):
        inputs = [x.requires_grad_() for x in torch.randn(3, 1, 1, 20, width)]
        attnc.compile(BY_NAME["window"].fn, options={"cache": "off"})(*inputs).sum().backward()
        counts.append(live())
    assert counts[0] == counts[1] == counts[2]


def test_the_collector_rests_and_wakes() -> None:
    assert gc.isenabled()
    with collector.resting():
        with collector.resting():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with collector.resting():
            pass
        assert not gc.isenabled()  # the user's choice
    finally:
        gc.enable()


def test_the_collector_wakes_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), collector.resting():
        raise ZeroDivisionError
    assert gc.isenabled()
