"""``attnc opt``: text in, passes, text out."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from attnc.compiler.passes import load_pass
from attnc.ir.attributes import ExprAttr
from attnc.ir.expr import parse

PIPELINE = "choose-tiles{target=cpu-avx512 rows=16 keys=16},online-softmax,key-ranges"


def test_no_pass_prints_what_it_read(attnc, attn_mlir: Path) -> None:
    first = attnc("opt", attn_mlir)
    assert (first.status, first.err) == (0, "")
    attn_mlir.write_text(first.out)
    assert attnc("opt", attn_mlir).out == first.out


def test_standard_input(attnc, attn_mlir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from_file = attnc("opt", attn_mlir)
    for name in ([], ["-"]):
        monkeypatch.setattr("sys.stdin", io.StringIO(attn_mlir.read_text()))
        assert attnc("opt", *name).out == from_file.out


def test_a_pipeline(attnc, attn_mlir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mlir"
    done = attnc("opt", attn_mlir, "-p", PIPELINE, "-o", out, "--time-passes", "--print-ir-after-all")
    assert (done.status, done.out) == (0, "")
    assert "tile.kernel" in out.read_text()
    assert "full carry" in out.read_text()
    assert "// after choose-tiles" in done.err
    assert 'tiles "16 x 16"' in done.err
    assert "total" in done.err
    assert attnc("opt", out).out == out.read_text()


def test_generic_text_reads_back(attnc, attn_mlir: Path) -> None:
    generic = attnc("opt", attn_mlir, "--generic").out
    assert '"attn.attend"(' in generic
    custom = attnc("opt", attn_mlir).out
    attn_mlir.write_text(generic)
    assert attnc("opt", attn_mlir).out == custom


def test_verify_each(attnc, attn_mlir: Path) -> None:
    assert attnc("opt", attn_mlir, "-p", PIPELINE, "--verify-each").status == 0


def test_bisect_limit(attnc, attn_mlir: Path) -> None:
    done = attnc("opt", attn_mlir, "-p", PIPELINE, "--bisect-limit", "0")
    assert "tile.kernel" in done.out
    assert "full carry" not in done.out  # key-ranges is optional, the other two are not


@pytest.mark.parametrize(
    "text, message",
    [
        ('attn.func @f(%q: !attn.tensor<"N", f32>,\n  %k: !attn.tensor<"N +", f32>) {}', ":2:"),
        ('"builtin.module"() ({', ":1:"),
    ],
)
def test_text_that_is_not_ir(attnc, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.mlir"
    path.write_text(text)
    done = attnc("opt", path)
    assert (done.status, done.out) == (1, "")
    assert f"{path}{message}" in done.err
    assert "^" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "pipeline, message",
    [
        ("dilaton", "did you mean 'dilation'?"),
        ("choose-tiles{taget=x}", "did you mean 'target'?"),
    ],
)
def test_pipelines_that_are_wrong(attnc, attn_mlir: Path, pipeline: str, message: str) -> None:
    done = attnc("opt", attn_mlir, "-p", pipeline)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_a_pipeline_that_does_not_parse(attnc, attn_mlir: Path) -> None:
    done = attnc("opt", attn_mlir, "-p", "choose-tiles{target=")
    assert done.status == 2
    assert "cannot read the pipeline" in done.err
    assert "^" in done.err


def test_a_file_that_is_not_there(attnc) -> None:
    assert attnc("opt", "nowhere.mlir").status == 2


def test_bisect_finds_the_pass_that_breaks_a_check(attnc, attn_mlir: Path) -> None:
    check = "import sys; sys.exit('full carry' in sys.stdin.read())"
    done = attnc("opt", attn_mlir, "-p", f"simplify-masks,{PIPELINE}", "--bisect", f'{sys.executable} -c "{check}"')
    assert done.status == 1
    assert done.out == "key-ranges is the first pass that breaks it, number 2 of the 2 optional ones\n"
    done = attnc("opt", attn_mlir, "-p", PIPELINE, "--bisect", "true")
    assert (done.status, done.out) == (0, "the check holds after all passes\n")
    done = attnc("opt", attn_mlir, "-p", PIPELINE, "--bisect", "no-such-program-anywhere")
    assert done.status == 2
    assert "cannot run no-such-program-anywhere" in done.err


def test_bisect_by_meaning(attnc, attn_mlir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attnc("opt", attn_mlir, "-p", PIPELINE, "--bisect", "meaning").status == 0

    def wrong(self, ctx, module) -> None:
        for op in module.walk():
            if op.name == "tile.mask":
                op.condition = ExprAttr(parse("abs(i - j) <= 30"))

    monkeypatch.setattr(load_pass("key-ranges"), "apply", wrong)
    done = attnc("opt", attn_mlir, "-p", PIPELINE, "--bisect", "meaning")
    assert (done.status, done.out.split()[0]) == (1, "key-ranges")
