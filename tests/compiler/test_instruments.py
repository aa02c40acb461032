"""Instruments: dump, time, skip, limit, and verification by interpretation."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from xdsl.dialects.builtin import ArrayAttr
from xdsl.passes import ModulePass

from attnc.compiler.errors import InternalError, OptionError, PassVerifyError, PipelineError
from attnc.compiler.instruments import Dump, Limit, Skip, Time, VerifyStructure, instruments
from attnc.compiler.lowering import verify_result
from attnc.compiler.pass_manager import PassManager
from attnc.compiler.passes import load_pass
from attnc.compiler.settings import SETTING_OPTIONS, VARIABLES, Settings, check_environment
from attnc.compiler.verify_each import VerifyMeaning, distance, find_sizes, first_run, in_float64, random_inputs
from attnc.ir import attn
from attnc.ir.expr import parse
from attnc.ir.text import parse_module, print_module

QKV = '!attn.tensor<"B, H, N, 8", bf16>'
MODULE = f"""attn.func @window(%q: {QKV}, %k: {QKV}, %v: {QKV}, %bias: !attn.tensor<"H, 2 * N - 1", f32>) guards ["N % 8 == 0", "N >= 16"] {{
  %o, %lse = attn.attend over "b < B, h < H, i < N"
    query %q "b, h, i, d" width 8
    source "j < N" key %k "b, h, j, d" value %v "b, h, j, e" mask "abs(i - j) <= 5" score "lambda dot: dot * 0.25 + bias[h, i - j + N - 1]"
    capture bias = %bias
    normaliser softmax
    tiles "16 x 8"
    out "b, h, i, e" width 8 lse "b, h, i"
    : ({QKV}, {QKV}, {QKV}, !attn.tensor<"H, 2 * N - 1", f32>) -> ({QKV}, !attn.tensor<"B, H, N", f32>)
  attn.return %o, %lse : {QKV}, !attn.tensor<"B, H, N", f32>
}}"""  # noqa: E501


@dataclass(frozen=True)
class Edit(ModulePass):
    """Replaces the mask: right if the new one is equivalent."""

    name = "edit"
    mask: str = "abs(j - i) <= 5"

    def apply(self, ctx, op):
        import dataclasses

        for attend in op.walk():
            if isinstance(attend, attn.AttendOp):
                source = dataclasses.replace(attend.source_list[0], mask=parse(self.mask))
                attend.sources = ArrayAttr([attn.SourceAttr(source)])


@dataclass(frozen=True)
class Break(ModulePass):
    """Makes a module that its verifier rejects."""

    name = "break"

    def apply(self, ctx, op):
        func = attn.func_of(op)
        func.arg_names = ArrayAttr(list(func.arg_names)[:1])


def run(passes, *instruments):
    return PassManager(passes, instruments).run(parse_module(MODULE))


def test_meaning_is_kept():
    run([Edit(), Edit("j - i <= 5 and i - j <= 5"), load_pass("online-softmax")()], VerifyMeaning())


def test_a_wrong_pass_is_named():
    with pytest.raises(PassVerifyError, match=r"the pass edit changed result 0 of window by [\d.e-]+, more than"):
        run([Edit(), Edit("abs(i - j) <= 4")], VerifyMeaning())


def test_one_ulp_of_a_score_is_noticed_as_rounding_only():
    class Scale(Edit):
        def apply(self, ctx, op):
            text = print_module(op)
            assert "dot * 0.25" in text
            other = parse_module(text.replace("dot * 0.25", "dot / 4.0000000000000009"))
            block = op.body.block
            for child in list(block.ops):
                child.detach()
            for child in list(other.body.block.ops):
                child.detach()
                block.add_op(child)

    run([Scale()], VerifyMeaning())


def test_structure_error_names_the_pass():
    with pytest.raises(InternalError, match=r"the pass break made IR that is not valid: .*4 arguments but 1 names"):
        run([Break()], VerifyStructure())


def test_sizes_satisfy_the_guards():
    func = attn.func_of(parse_module(MODULE))
    sizes = next(find_sizes(func))
    assert sizes == {"B": 2, "H": 2, "N": 16}
    inputs = random_inputs(func, sizes)
    assert [tuple(x.shape) for x in inputs] == [(2, 2, 16, 8)] * 3 + [(2, 31)]
    assert [x.dtype for x in inputs] == [torch.bfloat16] * 3 + [torch.float32]


def test_sizes_of_grouped_heads_and_many_guards():
    text = """attn.func @f(%q: !attn.tensor<"B, H, N", f32>, %k: !attn.tensor<"B, H_k, M", f32>)
      guards ["H == H_k * 4", "M % 128 == 0", "M > 2 * N", "N % 7 == 0"] {
      attn.return %q : !attn.tensor<"B, H, N", f32>
    }"""
    assert next(find_sizes(attn.func_of(parse_module(text)))) == {"B": 2, "H": 4, "N": 49, "H_k": 1, "M": 128}


def test_unsatisfiable_guards_are_reported(caplog):
    text = MODULE.replace('"N >= 16"', '"N < 0"')
    with caplog.at_level(logging.WARNING, "attnc"):
        assert first_run(parse_module(text))[1] is None
    assert "window cannot be verified by interpretation: its guards hold for no small sizes" in caplog.text


def test_in_float64_changes_every_type():
    text = print_module(in_float64(parse_module(MODULE)))
    assert "bf16" not in text
    assert "f32" not in text


def test_distance():
    inf = float("inf")
    assert distance(torch.tensor([1.0, -inf]), torch.tensor([1.0, -inf])) == 0
    assert distance(torch.tensor([1.0, -inf]), torch.tensor([1.0, 0.0])) == inf
    assert distance(torch.tensor([float("nan")]), torch.tensor([float("nan")])) == 0
    assert distance(torch.tensor([100.0, 0.0]), torch.tensor([101.0, 0.0])) == pytest.approx(0.01)
    assert distance(torch.zeros(2), torch.zeros(3)) == inf


def test_dump(tmp_path):
    run([Edit(), load_pass("online-softmax")()], Dump(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("window-")
    assert sorted(p.name for p in folder.iterdir()) == ["00-input.mlir", "01-edit.mlir", "02-online-softmax.mlir"]
    assert "tile.kernel" in (folder / "02-online-softmax.mlir").read_text()
    parse_module((folder / "01-edit.mlir").read_text())


def test_time():
    timer = Time()
    run([Edit(), Edit()], timer)
    assert list(timer.seconds) == ["edit"]
    assert timer.seconds["edit"] > 0


def test_skip_and_limit():
    assert "abs(i - j)" in print_module(run([load_pass("online-softmax")()], Skip(())))
    ran = []

    class Note(Edit):
        def apply(self, ctx, op):
            ran.append(self.mask)

    run([Note("1 < 2"), Note("2 < 3"), Note("3 < 4")], Limit(2))
    assert ran == ["1 < 2", "2 < 3"]


def test_required_passes_cannot_be_skipped():
    with pytest.raises(PipelineError, match="cannot skip online-softmax: no kernel"):
        Skip(("online-softmax",))
    with pytest.raises(
        PipelineError, match="cannot skip 'key-range': there is no such pass; did you mean 'key-ranges'"
    ):
        Skip(("key-range",))
    ran = run([load_pass("online-softmax")()], Limit(0))
    assert "tile.kernel" in print_module(ran)


# ---- settings -----------------------------------------------------------------------------------------


def test_at_most_eight_variables_each_documented():
    assert len(VARIABLES) <= 8
    assert all(v.help and v.name.startswith("ATTNC_") for v in VARIABLES)


def test_options_win_over_the_environment():
    environ = {
        "ATTNC_VERIFY": "each",
        "ATTNC_SKIP": "dilation, key-ranges",
        "ATTNC_DEBUG": "2",
        "ATTNC_CACHE_DIR": "/c",
    }
    settings = Settings.of({"verify": "off", "skip": ["key-ranges"]}, environ)
    assert settings == Settings(cache_dir=Path("/c"), verify="off", skip=("key-ranges",), debug=2)


@pytest.mark.parametrize(
    "options, environ, message",
    [
        ({"verify": "often"}, {}, "option 'verify' is 'often'; expected one of off, end, structure, each"),
        ({}, {"ATTNC_DEBUG": "-1"}, "ATTNC_DEBUG is '-1'; expected a number from 0 up"),
    ],
)
def test_wrong_values(options, environ, message):
    with pytest.raises(OptionError, match=message):
        Settings.of(options, environ)


def test_unknown_variables_are_found():
    assert check_environment({"ATTNC_VERFIY": "each", "PATH": ""}) == [
        "ATTNC_VERFIY is not a variable of attnc; did you mean 'ATTNC_VERIFY'? Known: "
        + ", ".join(sorted(v.name for v in VARIABLES))
    ]


def test_code_key_holds_what_changes_code():
    base = Settings()
    assert Settings(skip=("dilation",)).code_key() != base.code_key()
    assert Settings(opt_bisect_limit=3).code_key() != base.code_key()
    assert Settings(debug=3, cache_dir=Path("/x")).code_key() == base.code_key()


def test_instruments_follow_the_settings(tmp_path):
    assert instruments(Settings()) == []
    assert [type(i) for i in instruments(Settings(verify="structure"))] == [VerifyStructure]
    chosen = instruments(Settings(verify="each", dump=tmp_path, skip=("dilation",), opt_bisect_limit=1, debug=2))
    assert [type(i) for i in chosen] == [Skip, Limit, Dump, VerifyMeaning, VerifyStructure, Time]
    assert "options" not in SETTING_OPTIONS


def test_the_default_verifies_what_all_passes_made():
    broken = parse_module(MODULE)
    Break().apply(None, broken)
    with pytest.raises(InternalError, match=r"ATTNC_VERIFY=structure .*4 arguments but 1 names"):
        verify_result(broken)
