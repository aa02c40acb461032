"""Every CPU target's instructions, in the object; and its numbers where this host runs it."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch

import attnc
from attnc.backends import get_backend
from attnc.backends.api import Artifact
from attnc.backends.mlir_cpu import target as targets
from attnc.backends.mlir_cpu.errors import CpuTargetError
from attnc.compiler.analysis.cost import DEVICES, UnknownTargetError

from ...numerics import assert_gradients_match, assert_matches, gradients
from ...patterns import BY_NAME, causal_window, dense
from .backward_kernels import KeyBackward, check_backward
from .kernels import DTYPES, Forward, check_forward, parse_kernel
from .machine_code import STACK, assembly, disassembly, product_loops, products, undefined_symbols

X86 = [name for name, t in targets.TARGETS.items() if t.machine == "x86_64"]
LIBRARY = {"memset", "memcpy", "memmove"}  # never a function of mathematics or of conversion

on_x86 = pytest.mark.skipif(targets.host_machine() != "x86_64", reason="LLVM here makes no objects for x86-64")


def runs_here(name: str) -> bool:
    t = targets.TARGETS[name]
    return t.runs_here and set(t.requires) <= set(targets.cpu_features())


RUNNABLE = [name for name in X86 if runs_here(name)]


@cache
def kernels(target: str, dt: str) -> list[Artifact]:
    """Dense attention and its gradient for a target."""
    x = [torch.randn(1, 1, 200, 64, dtype=DTYPES[dt]) for _ in range(3)]
    lowered = attnc.compile(dense).lower(*x, target=f"cpu-{target}")
    return [a for part in (lowered, lowered.backward()) for a in part.artifacts("llvm")]


def test_names_agree() -> None:
    assert {f"cpu-{name}" for name in targets.TARGETS} == {name for name in DEVICES if name.startswith("cpu-")}
    for name, t in targets.TARGETS.items():
        assert t.lanes("f32") == DEVICES[f"cpu-{name}"].lanes
    assert f"cpu-{targets.host_target().name}" in DEVICES


def test_unknown_names() -> None:
    with pytest.raises(CpuTargetError, match=r"no CPU target 'cpu-avx3'; targets: cpu-avx512, .*cpu-neon"):
        get_backend("cpu").compile(parse_kernel(Forward().text), target="cpu-avx3")
    with pytest.raises(UnknownTargetError, match=r"no target 'cpu-avx3'; targets: cpu-avx512, "):
        attnc.compile(dense).lower(*[torch.randn(1, 1, 8, 8)] * 3, target="cpu-avx3").ir("tile")


@on_x86
@pytest.mark.parametrize("dt", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("target", X86)
def test_instructions(target: str, dt: str, tmp_path: Path) -> None:
    t = targets.TARGETS[target]
    wide = t.vector_bytes == 64
    for artifact in kernels(target, dt):
        assert undefined_symbols(artifact.payload) <= LIBRARY
        text = disassembly(artifact.payload, tmp_path)
        assert ("%zmm" in text) == wide
        assert wide or not re.search(r"%k\d|%[xy]mm(1[6-9]|[23]\d)", text)  # masks, and registers past 16
        assert re.search(rf"vfmadd\d+ps\b.*%{'zmm' if wide else 'ymm'}", text) or _is_sum(artifact)
        assert ("vdpbf16ps" in text) <= t.pairs
        assert ("vcvtneps2bf16" in text) <= t.rounds
        assert "vcvtps2phx" not in text  # of AVX512-FP16, which no target here has
    texts = [disassembly(a.payload, tmp_path) for a in kernels(target, dt)]
    assert any("vscalefps" in text for text in texts) == wide
    assert any("vdpbf16ps" in text for text in texts) == (t.pairs and dt == "bf16")


@on_x86
@pytest.mark.parametrize("rows", [1, 65])
@pytest.mark.parametrize("name", ["t5_bias", "dense_bias"])
@pytest.mark.parametrize("target", X86)
def test_captured_bf16_is_widened_in_place(
    target: str, name: str, rows: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """LLVM rounds what it passes from block to block by a function that few systems have."""
    pattern = BY_NAME[name]
    inputs = pattern.inputs(1, 2, rows, 77, 20, dtype=torch.bfloat16)
    assert inputs is not None
    lowered = attnc.compile(pattern.fn).lower(*inputs, target=f"cpu-{target}")
    for part in [lowered, lowered.backward()] if rows > 1 else [lowered]:
        for artifact in part.artifacts("mlir"):
            assert undefined_symbols(artifact.payload) <= LIBRARY, artifact.kernel
    assert capfd.readouterr().err == ""


@on_x86
@pytest.mark.parametrize("target", X86)
def test_inner_loops_stay_in_registers(target: str, tmp_path: Path) -> None:
    for artifact in kernels(target, "f32"):
        loops = product_loops(disassembly(artifact.payload, tmp_path))
        _check_loops(artifact, loops, most=targets.TARGETS[target].accumulators)


def test_what_kernels_ask_for() -> None:
    """What products read, only behind a test of its stride; tiles to transpose and what sums go to, always."""
    (text,) = [a.stages["mlir"] for a in kernels("avx512", "f32") if a.kernel.endswith("_key0")]
    lines = text.splitlines()
    depths = [len(line) - len(line.lstrip()) for line in lines]
    asked = [n for n, line in enumerate(lines) if "intr.prefetch" in line]
    found = Counter[tuple[str, str]]()
    for n in asked:
        around = next(line for m, line in zip(range(n, -1, -1), lines[n::-1], strict=False) if depths[m] < depths[n])
        found[re.findall(r"scf\.\w+", around)[0], re.findall(r"rw = \d", lines[n])[0]] += 1
    block, line = 6, 4  # rows of a register block, cache lines of a row
    # row by row: two products, queries and gradients for each; keys and values
    assert found["scf.for", "rw = 0"] == 2 * 2 * line + 2 * line
    assert not found["scf.if", "rw = 0"]
    assert sum(n for (_, kind), n in found.items() if kind == "rw = 1") == block * line + 2 * line  # dq; dk and dv


@pytest.mark.parametrize("dt", ["f32", "bf16", "f16", "f64"])
def test_neon(dt: str) -> None:
    for artifact in kernels("neon", dt):
        text = assembly(artifact.stages["llvm"], "aarch64-unknown-linux-gnu")
        assert set(re.findall(r"\bbl\s+(\w+)", text)) <= LIBRARY
        assert len(re.findall(rf"\bfmla\s+v\d+\.{'2d' if dt == 'f64' else '4s'}", text)) >= 100 or _is_sum(artifact)
        _check_loops(artifact, product_loops(text), most=16)


def _is_sum(artifact: Artifact) -> bool:
    """Is it the kernel that has no products of tiles, but sums of rows?"""
    return artifact.kernel.endswith("_delta")


def _check_loops(artifact: Artifact, loops: list[list[str]], most: int) -> None:
    """All accumulators of a block are in registers."""
    full = [body for body in loops if products(body) % most == 0]
    assert full or _is_sum(artifact), f"{artifact.kernel} has no loop of {most} products"
    for body in full:
        spills = [line for line in body if STACK.search(line) and "mm" in line]  # the loop's end may lie there
        assert not spills, f"{artifact.kernel} spills in\n" + "\n".join(body)


@pytest.mark.parametrize(
    ("target", "dt"),
    [("avx512", "bf16"), ("avx512", "f16"), ("avx512-bf16", "bf16"), *(("avx2", dt) for dt in DTYPES)],
)
def test_numbers(target: str, dt: str) -> None:
    """The tiles of each target, with its instructions."""
    if target not in RUNNABLE:
        pytest.skip(f"this host cannot run {target}")
    inputs = [torch.randn(2, 3, n, d, dtype=torch.float64).to(DTYPES[dt]) for n, d in ((65, 20), (77, 20), (77, 33))]
    compiled = attnc.compile(causal_window, options={"target": f"cpu-{target}"})
    assert_matches(causal_window, compiled(*inputs), inputs)
    assert_gradients_match(causal_window, gradients(compiled, inputs, 1)[0], inputs)


@pytest.mark.parametrize("dt", ["f32", "f64", "bf16", "f16"])
def test_numbers_of_narrow_vectors(dt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of NEON up to LLVM, where vectors of its width are at hand."""
    here = dataclasses.replace(targets.TARGETS["neon"], name="neon-here", machine="", cpu="", requires=())
    monkeypatch.setitem(targets.TARGETS, here.name, here)
    check_forward(Forward(D=20, E=33, dt=dt, rows=16), target=here.name)
    check_backward(KeyBackward(D=20, E=33, dt=dt, rows=16), target=here.name)


@pytest.mark.parametrize("target", RUNNABLE)
def test_rounding_to_bf16(target: str) -> None:
    """Means of two values, exact before they are rounded: ties, overflow, NaN, subnormal numbers."""
    high = torch.tensor([1.0, 1.0078125, 3.3895e38, 3.3895e38, float("nan"), float("inf"), 1.1755e-38, -0.0])
    low = torch.tensor([1.0078125, 1.015625, 3.3895e38, 3.3762e38, 1.0, -float("inf"), 9.1835e-41, -0.0])
    v = torch.stack([high, low]).bfloat16().expand(1, 1, 2, 8)
    q = torch.zeros(1, 1, 2, 8, dtype=torch.bfloat16)
    out = attnc.compile(dense, options={"target": f"cpu-{target}"})(q, q, v)
    expected = v.float().mean(-2, keepdim=True).bfloat16().expand(1, 1, 2, 8)
    torch.testing.assert_close(out, expected, rtol=0, atol=1.2e-38, equal_nan=True)


def test_code_for_another_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = "neon" if targets.host_machine() == "x86_64" else "avx2"
    x = [torch.randn(1, 1, 8, 8)] * 3
    with pytest.raises(CpuTargetError, match=f"for cpu-{foreign} is for .* cannot run on this host"):
        attnc.compile(dense, options={"target": f"cpu-{foreign}"})(*x)
    monkeypatch.setattr(targets, "cpu_features", lambda: ("avx2",))
    with pytest.raises(CpuTargetError, match="kernel f uses fma, bmi2, which this host lacks"):
        targets.check_runs_here("kernel f", "", ["avx2", "fma", "bmi2"])


def test_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each kind of host gets."""
    avx512 = targets.TARGETS["avx512-bf16"].requires
    cases = {
        ("x86_64", "GenuineIntel", avx512): ("avx512", False, True),
        ("x86_64", "AuthenticAMD", avx512): ("avx512-bf16", True, True),
        ("x86_64", "GenuineIntel", tuple(f for f in avx512 if f != "avx512_bf16")): ("avx512", False, False),
        ("x86_64", "GenuineIntel", ("avx2", "fma")): ("avx2", False, False),
        ("x86_64", "GenuineIntel", ("sse4_2",)): ("generic", False, False),
        ("aarch64", "", ("asimd",)): ("neon", False, False),
        ("riscv64", "", ()): ("generic", False, False),
    }
    for (machine, vendor, features), expected in cases.items():
        monkeypatch.setattr(targets, "host_machine", lambda machine=machine: machine)
        monkeypatch.setattr(targets, "cpu_features", lambda features=features: features)
        monkeypatch.setattr(targets, "cpuinfo", lambda *keys, vendor=vendor: vendor)
        monkeypatch.setattr(targets, "tiles_permitted", lambda: False)
        host = targets.host_target.__wrapped__()
        assert (host.name, host.pairs, host.rounds) == expected
        assert host.attributes == ("", "")
