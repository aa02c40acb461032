"""Time to the first result, by what it is made of: modules imported, code emitted, garbage left, never by a clock."""

from __future__ import annotations

import copy
import dataclasses
import gc
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from xdsl.ir import Operation

import attnc
from attnc.compiler import collector, driver
from attnc.compiler.late_methods import late_methods
from attnc.compiler.lowering import Request
from tests.patterns import BY_NAME, Pattern

# Lines of MLIR for each loop over keys, which has register blocks of 16, 4 and 4 vectors, and around the loops:
# a little more than what the patterns below take, so that a kernel that grows is noticed.
PER_LOOP, AROUND = 26 * 60, 1000
LATER = ("xdsl", "torch_mlir", "triton", "islpy", "attnc.ir.text", "attnc.compiler.passes",
         "attnc.compiler.autotune", "attnc.frontends.raising", "attnc.backends.mlir_cpu.lower")  # fmt: skip
CALL = """
import sys, torch, attnc
from tests.patterns import causal
inputs = [x.requires_grad_() for x in torch.randn(3, 1, 2, 40, 16)]
attnc.compile(causal, backend="cpu", fallback="error")(*inputs).sum().backward()
print([m for m in sys.argv[1:] if m in sys.modules])
print("libTorchMLIR" in open("/proc/self/maps").read())
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
        loaded.append(done.stdout.split("\n")[:2])
    assert "xdsl" in loaded[0][0]
    assert "torch_mlir" not in loaded[0][0]  # whose Python bindings take longer than a small kernel
    assert loaded[0][1] == "True"
    assert loaded[1] == ["[]", "False"]


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


def test_a_gradient_is_lowered_while_forward_kernels_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    run_passes = Request.run_passes

    def counted(self: Request, *args: Any) -> Any:
        seen.append(self.gradient is not None)
        return run_passes(self, *args)

    monkeypatch.setattr(Request, "run_passes", counted)
    inputs = torch.randn(3, 1, 1, 37, 11)

    def called(wanted: int) -> list[torch.Tensor | None]:
        seen.clear()
        driver.forget()
        leaves = [x.clone().requires_grad_(n < wanted) for n, x in enumerate(inputs)]
        out = attnc.compile(BY_NAME["window"].fn, options={"cache": "off"})(*leaves)
        assert seen == [False, True][: 1 + (wanted > 0)]
        if wanted:
            out.sum().backward()
            assert seen == [False, True]
        return [x.grad for x in leaves]

    called(0)
    some, all_three = called(1), called(3)
    assert some[1] is some[2] is None
    torch.testing.assert_close(some[0], all_three[0], rtol=1e-4, atol=1e-5)  # by kernels of another order
    with torch.no_grad():
        seen.clear()
        driver.forget()
        attnc.compile(BY_NAME["window"].fn, options={"cache": "off"})(*inputs.requires_grad_())
        assert seen == [False]


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


with late_methods():

    @dataclasses.dataclass(frozen=True, order=True)
    class Late:
        x: int
        y: list[int] = dataclasses.field(default_factory=list, compare=False)

    @dataclasses.dataclass(frozen=True, order=True)
    class Later(Late):
        z: str = "z"

    @dataclasses.dataclass(slots=True)
    class Slotted:
        x: int


@dataclasses.dataclass(frozen=True, order=True)
class Soon:
    x: int
    y: list[int] = dataclasses.field(default_factory=list, compare=False)


def test_late_methods_are_the_usual_ones() -> None:
    assert repr(Late(1, [2])) == "Late(x=1, y=[2])"
    assert Late(1, [2]) == Late(1, [3]) != Late(2)
    assert hash(Late(1)) == hash(Soon(1))
    assert sorted([Late(2), Late(1)]) == [Late(1), Late(2)]
    assert Late.__lt__(Late(1), 3) is NotImplemented
    # a base's method that came first as the base's own, and one that came first by way of the derived class
    assert Later(1, [2], "a") == Later(1, [], "a") != Later(1, [], "b")
    assert repr(Later(1)) == "Later(x=1, y=[], z='z')"
    assert Slotted(1) == Slotted(1) != Slotted(2)
    assert repr(Slotted(1)) == "Slotted(x=1)"
    for change in (lambda o: setattr(o, "x", 3), lambda o: delattr(o, "x"), lambda o: setattr(o, "new", 3)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            change(Late(1))
    assert dataclasses.replace(Late(1), x=2) == copy.copy(Late(2)) == pickle.loads(pickle.dumps(Late(2)))
    for name in ("__eq__", "__hash__", "__repr__", "__setattr__"):
        assert getattr(Late, name).__qualname__ == f"Late.{name}"


def test_late_methods_end() -> None:
    before = getattr(dataclasses, "_create_fn", None)
    with pytest.raises(ZeroDivisionError), late_methods(), late_methods():
        raise ZeroDivisionError
    assert getattr(dataclasses, "_create_fn", None) is before


@pytest.mark.skipif(not hasattr(dataclasses, "_create_fn"), reason="this Python compiles once for a class")
def test_methods_nobody_calls_are_not_compiled() -> None:
    def waiting(cls: type) -> set[str]:
        return {name for name, x in vars(cls).items() if getattr(x, "__module__", None) == late_methods.__module__}

    with late_methods():

        @dataclasses.dataclass(frozen=True)
        class New:
            x: int

    assert waiting(New) == {"__eq__", "__hash__", "__repr__", "__setattr__", "__delattr__"}
    assert New(1) == New(1)
    assert waiting(New) == {"__hash__", "__repr__", "__setattr__", "__delattr__"}
