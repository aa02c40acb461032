"""Kernels compiled for GPUs that are not here: what the assemblers say of them."""

from dataclasses import replace

import pytest

from attnc.backends import get_backend
from attnc.backends.triton import static
from attnc.backends.triton.errors import StaticToolError, UnknownTargetError
from attnc.backends.triton.static import report
from attnc.compiler.pass_manager import PassManager
from attnc.compiler.pipelines import gradient
from attnc.ir.text import parse_module
from attnc.ir.tile import kernels_of

from .helpers import Case

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
CASES = {
    "dense": Case(dtype="bf16"),
    "causal": Case(dtype="bf16", mask="j <= i", edit=lambda t: t.replace('["0, M"]', '["0, min(M, t * 64 + 64)"]')),
    "window": Case(
        dtype="bf16",
        mask="abs(i - j) <= 256",
        edit=lambda t: t.replace('["0, M"]', '["max(t * 64 - 256, 0), min(M, t * 64 + 320)"]'),
    ),
    "dilated": Case(
        dtype="bf16", over="b < B, h < H, r < 8, i < (N - r + 7) // 8",
        query="b, h, i * 8 + r, d", key="b, h, j * 8 + r, d", value="b, h, j * 8 + r, e",
        out="b, h, i * 8 + r, e", lse="b, h, i * 8 + r", keys="(M - r + 7) // 8", mask="abs(i - j) <= 32",
    ),
    "block": Case(
        dtype="bf16", over="b < B, h < H, g < N // 128, i < 128",
        query="b, h, g * 128 + i, d", key="b, h, g * 128 + j, d", value="b, h, g * 128 + j, e",
        out="b, h, g * 128 + i, e", lse="b, h, g * 128 + i", keys="128",
    ),
    "window_and_globals": Case(
        dtype="bf16",
        mask="abs(i - j) <= 256 or j < 4",
        edit=lambda t: t.replace('["0, M"]', '["0, min(M, 4)", "max(t * 64 - 256, 4), min(M, t * 64 + 320)"]'),
    ),
    "bias": Case(dtype="bf16", score="lambda dot: dot * 0.125 + bias[h, i, j]", captures={"bias": ("H, N, M", "bf16")}),
}  # fmt: skip
QUICK = [("dense", "sm_90"), ("window", "sm_80"), ("window_and_globals", "sm_100"), ("dilated", "gfx942")]


def compiled(case, target):
    stages = ("amdgcn",) if target.startswith("gfx") else ("ptx",)
    return get_backend("triton").compile(case.kernel(), stages=stages, target=target)


@pytest.mark.parametrize("name, target", QUICK)
def test_static_facts(name, target):
    artifact = compiled(CASES[name], target)
    facts = report(artifact)
    assert facts.spilled_bytes == 0, facts
    assert facts.fits, facts
    assert facts.matrix > 0, facts
    assert facts.loops, facts
    assert all(loop.matrix and loop.special for loop in facts.loops), facts
    assert facts.resident >= 1
    assert len(artifact.meta["binary"]) > 1000


def test_without_a_disassembler_the_ptx_is_counted(monkeypatch):
    artifact = compiled(CASES["dense"], "sm_90")
    facts = report(artifact)
    monkeypatch.setattr(static, "_disassembled", lambda binary: None)
    counted = report(artifact)
    assert (counted.registers, counted.matrix, len(counted.loops)) == (facts.registers, facts.matrix, len(facts.loops))
    assert [loop.matrix for loop in counted.loops] == [loop.matrix for loop in facts.loops]
    assert counted.matrix_name != facts.matrix_name


def gradient_kernels(name, target, width=64):
    """Kernels of the gradient at the target's own tiles."""
    case = replace(CASES[name], width=width)
    module = parse_module(case.attn().replace(' tiles "64x64"', ""))
    passes = gradient(target, narrow=True, fused=False)
    return kernels_of(PassManager(passes).run(module))


# The widest key kernels spill a little once for each task, and nothing in their loops: the tiles that spill nothing at
# all cost a tenth to half as many instructions more for each pair.
@pytest.mark.parametrize(
    "name, target, width, kernel, most",
    [
        ("bias", "sm_80", 128, "f_key0", 512),
        ("block", "sm_90", 128, "f_key0", 256),
        ("causal", "sm_90", 64, "f_query", 0),
    ],
)
def test_gradients(name, target, width, kernel, most):
    found = gradient_kernels(name, target, width)[kernel]
    facts = report(get_backend("triton").compile(found, stages=("ptx",), target=target))
    assert facts.loops, facts
    assert facts.loop_spills == 0, facts
    assert facts.spilled_bytes <= most, facts
    assert facts.fits, facts
    assert facts.matrix > 0, facts


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype, tiles", [("f64", "16x16"), ("f32", "32x16"), ("f16", "64x64")])
def test_other_types(dtype, tiles, target):
    facts = report(compiled(Case(dtype=dtype, tiles=tiles, mask="j <= i"), target))
    assert facts.spilled_bytes == 0, facts
    assert facts.fits, facts


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize(
    "case",
    [
        Case(dtype="bf16", score="lambda dot: 20.0 * tanh(sigmoid(dot) + sin(dot) + floor(dot) + log(abs(dot) + 1.0))"),
        Case(
            dtype="bf16",
            mask="doc.int[b, i] == doc.int[b, j] and not pad.bool[b, j] and (i - j) % 3 != (i - j) // 7",
            score="lambda dot: dot / temperature[()] + pow(dot, 3) - sqrt(abs(dot))",
            captures={"doc": ("B, N", "i64"), "pad": ("B, M", "i1"), "temperature": ("", "f32")},
        ),
        Case(dtype="bf16", width=5, value_width=80),
    ],
)
def test_every_function_compiles(case, target):
    assert report(compiled(case, target)).matrix > 0


def test_unknown_target():
    with pytest.raises(UnknownTargetError, match=r"sm_1.*choose one of"):
        get_backend("triton").compile(Case().kernel(), target="sm_1")


def test_report_needs_assembly():
    with pytest.raises(StaticToolError, match="stage ptx"):
        report(get_backend("triton").compile(Case().kernel(), target="sm_90"))
