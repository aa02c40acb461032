"""Tensor descriptors: right at every size, used where the call allows it, and worth their instructions."""

import contextvars
from dataclasses import replace

import pytest
import torch
import triton
from triton.runtime import _allocation, interpreter
from xdsl.dialects.builtin import IntegerAttr, i64

from attnc.backends import get_backend
from attnc.backends.triton import static
from attnc.backends.triton.descriptors import DESCRIBE

from ..mlir_cpu.backward_kernels import KeyBackward, QueryBackward
from . import test_backward
from .helpers import Case, check, oracle, run

BLOCKS = Case(
    dtype="bf16", over="b < B, h < H, g < N // 49, i < 49",
    query="b, h, g * 49 + i, d", key="b, h, g * 49 + j, d", value="b, h, g * 49 + j, e",
    out="b, h, g * 49 + i, e", lse="b, h, g * 49 + i", keys="49",
)  # fmt: skip
DILATED = Case(
    dtype="bf16", over="b < B, h < H, r < 8, i < (N - r + 7) // 8", mask="abs(i - j) <= 3",
    query="b, h, i * 8 + r, d", key="b, h, j * 8 + r, d", value="b, h, j * 8 + r, e",
    out="b, h, i * 8 + r, e", lse="b, h, i * 8 + r", keys="(M - r + 7) // 8",
)  # fmt: skip
CASES = {
    "dense": Case(dtype="bf16"),
    "causal": Case(dtype="bf16", mask="j <= i", tiles="32x16"),
    "window": Case(dtype="f16", mask="abs(i - j) <= 9", tiles="16x32"),
    "dilated": DILATED,
    "blocks": BLOCKS,
    "narrow": Case(dtype="bf16", width=8, value_width=80),
    "group": Case(dtype="bf16", key="b, h // 2, j, d", value="b, h // 2, j, e", key_shape="B, H // 2, M"),
}


@pytest.fixture
def made(monkeypatch):
    """Counts the descriptors that interpreted kernels make."""
    builder, counts = interpreter.InterpreterBuilder, []
    make = builder.create_make_tensor_descriptor
    monkeypatch.setattr(
        builder, "create_make_tensor_descriptor", lambda self, *args: counts.append(1) or make(self, *args)
    )
    return counts


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("n, m", [(1, 1), (98, 98), (131, 67), (3, 0)])
def test_numbers(name, n, m, made):
    case = CASES[name]
    if name == "blocks":
        n = m = max(n // 49, 1) * 49
    check(case, case.inputs(b=2, h=2, n=n, m=m, key_heads=1 if name == "group" else None))
    assert made


@pytest.mark.parametrize("case", [KeyBackward(dt="bf16", mask="j <= i"), QueryBackward(dt="f16", D=24, E=40)])
def test_gradients(case, made):
    test_backward.check(case)
    assert made
    made.clear()
    test_backward.check(case, [(33, 70)], strided=True)
    assert not made


def test_what_a_descriptor_cannot_say_goes_by_pointers(made):
    case = CASES["dense"]
    q, k, v = case.inputs(n=33, m=45)
    wide = torch.randn(1, 2, 45, 72).bfloat16()
    ways = {
        "features apart": v.mT.contiguous().mT,
        "address": wide[..., 1:65],
        "row stride": torch.randn(1, 2, 45, 65).bfloat16()[..., :64],
        "rows overlap": torch.randn(2 * 45 * 8 + 64).bfloat16().as_strided((1, 2, 45, 64), (720, 360, 8, 1)),
        "one row": v[:, :, :1].expand_as(v),
    }
    for what, value in ways.items():
        check(case, [q, k, value])
        assert not made, what
    check(case, [q, k, wide[..., 8:]])
    check(case, [q, k[:, :1].expand_as(k), v])
    assert made


def test_the_rows_of_another_window_stay_outside():
    """A tile of 64 rows holds 49 of one window: what is in the next one must not come in with a factor of 0."""
    q, k, v = BLOCKS.inputs(n=98, m=98)
    for x in (k, v):
        x[:, :, 49:] = torch.nan
    out, _ = run(BLOCKS, [q, k, v])
    assert out[:, :, :49].isfinite().all()


def test_printed_only_where_it_can_be_true():
    def text(case, target="sm_90"):
        return get_backend("triton").compile(case.kernel(), target=target).stages["triton"]

    assert text(CASES["dense"]).count("tl.make_tensor_descriptor(") == 2
    assert text(DILATED).count("strides=[8 * k_s2, 1]") == 1
    for case in (Case(), Case(dtype="bf16", width=5), Case(dtype="bf16", key="b, h, M - 1 - j, d")):
        assert "k_rows" not in text(case)
    for target in ("sm_80", "gfx942"):
        assert "descriptor" not in text(CASES["dense"], target)


def test_two_loops_share_a_descriptor():
    causal = replace(
        CASES["causal"],
        edit=lambda t: t.replace('["0, M"]', '["0, min(M, 16)", "16, min(M, t * 32 + 32)"]'),
    )
    assert get_backend("triton").compile(causal.kernel()).stages["triton"].count("tl.make_tensor_descriptor(") == 2


class TwoSources(Case):
    """Half of the keys once more, by steps of two: a loop of its own over the same tensor."""

    def attn(self, dtype=None):
        text = super().attn(dtype)
        again = (
            'source "j < M // 2" key %k "b, h, j * 2, d" value %v "b, h, j * 2, e" mask "True" score "lambda dot: dot"'
        )
        head, types = text.split("    : (")
        first, rest = types.split(") ->", 1)
        keys = ", ".join(f'!attn.tensor<"B, H, M, {self.width}", {dtype or self.dtype}>' for _ in "kv")
        return head.replace("    normaliser", f"    {again}\n    normaliser") + f"    : ({first}, {keys}) ->{rest}"


def test_loops_over_other_rows_have_descriptors_that_end_elsewhere(made):
    case, engine = TwoSources(dtype="bf16", tiles="32x16"), get_backend("triton")
    kernel = case.kernel()
    artifact = engine.compile(kernel)
    assert artifact.stages["triton"].count("tl.make_tensor_descriptor(") == 4
    assert "tl.maximum(tl.maximum(" not in artifact.stages["triton"]
    q, k, v = case.inputs(n=33, m=45)
    out, lse = torch.full_like(q, torch.nan), torch.full(q.shape[:-1], torch.nan)
    inputs = [{"q": q, "k": k, "v": v}[name[0]] for name in kernel.names[:5]]
    engine.load(artifact)([*inputs, out, lse], {"B": 1, "H": 2, "N": 33, "M": 45})
    assert made, kernel.names
    for found, exact in zip((out, lse), oracle(case, [q, k, v]), strict=True):
        torch.testing.assert_close(found.double(), exact.double(), rtol=0, atol=0.02)


def test_other_users_of_triton_keep_their_allocator():
    module = {"contextvars": contextvars, "torch": torch, "triton": triton}
    exec(DESCRIBE, module)
    before, seen = _allocation._allocator.get(), []
    module["with_scratch"]("cpu", lambda: seen.append(_allocation._allocator.get()(256, 128, None).numel()))
    assert seen == [256]
    assert _allocation._allocator.get() is before


@pytest.mark.parametrize("target", ["sm_90", "sm_100"])
def test_the_copy_engine_fetches_and_the_loop_is_shorter(target):
    found = {}
    for descriptors in (0, 1):
        kernel = Case(dtype="bf16", width=128, tiles="128x128").kernel()
        kernel.attributes["descriptors"] = IntegerAttr(descriptors, i64)
        artifact = get_backend("triton").compile(kernel, stages=("ptx",), target=target)
        code = static._disassembled(bytes.fromhex(artifact.meta["binary"]))
        assert code is not None
        assert (code[0].count("UTMALDG") > 0) == bool(descriptors)
        facts = static.report(artifact)
        assert facts.spilled_bytes == 0
        found[descriptors] = facts
    assert found[1].loops[0].instructions < 0.95 * found[0].loops[0].instructions
    assert found[1].registers < found[0].registers
