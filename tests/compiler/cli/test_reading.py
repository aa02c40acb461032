"""What people read: ``dump --diff`` and folding, ``explain --run``, ``inspect``."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnc.compiler.cli import console
from attnc.compiler.cli.folding import fold

SHAPE = ["--shape", "B=1,H=2,N=100,D=16"]


def test_the_difference_that_a_pass_makes(attnc, window_py: Path) -> None:
    done = attnc("dump", f"{window_py}:dilated", "--diff", "dilation", *SHAPE)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("--- before dilation\n+++ after dilation\n")
    assert any(x.startswith("+") and "r < 8" in x for x in done.out.splitlines())
    assert "lines =" not in done.out
    every = attnc("dump", f"{window_py}:dilated", "--diff", "all", *SHAPE).out
    assert done.out in every
    assert "+++ after image-rows" not in every  # it changed nothing
    whole = attnc("dump", f"{window_py}:dilated", "--diff", "attn..key-ranges", *SHAPE).out
    assert whole.startswith("--- attn\n+++ after key-ranges\n")
    assert attnc("dump", f"{window_py}:dilated", "--diff", "pin-sizes", *SHAPE).out == "// no pass changed anything\n"


def test_lines_are_shown_when_asked_for(attnc, window_py: Path, tmp_path: Path) -> None:
    for stage, shown in (("attn", 'mask = "window.py:'), ("tile", 'lines = "window.py:')):
        text = attnc("dump", f"{window_py}:dilated", "--stage", stage, "--lines", *SHAPE).out
        assert shown in text
        path = tmp_path / "lines.mlir"
        path.write_text(text)
        plain = attnc("dump", f"{window_py}:dilated", "--stage", stage, *SHAPE).out
        assert attnc("opt", path).out == plain  # the attribute reads back, and is not printed
    assert attnc("dump", f"{window_py}:dilated", "--stage", "mlir", "--lines", *SHAPE).status == 2


def test_a_difference_of_no_pass(attnc, window_py: Path) -> None:
    done = attnc("dump", f"{window_py}:dilated", "--diff", "dilaton", *SHAPE)
    assert done.status == 2
    assert "did you mean 'dilation'?" in done.err


def test_folding_is_for_terminals(attnc, window_py: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = attnc("dump", f"{window_py}:dilated", "--stage", "mlir", *SHAPE).out
    folded = attnc("dump", f"{window_py}:dilated", "--stage", "mlir", "--fold", *SHAPE).out
    assert plain.count("arith.constant") > max(20, 4 * folded.count("arith.constant"))
    assert "more constants (--no-fold shows them)" in folded
    numbers = ", ".join(map(str, range(16)))
    line = f"  %iota = arith.constant dense<[{numbers}]> : vector<16xi32>\n"
    assert "dense<[0, 1, ... 13 more ..., 15]>" in fold(line)
    monkeypatch.setattr(console, "_in_terminal", lambda output: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = attnc("dump", f"{window_py}:dilated", "--stage", "mlir", *SHAPE).out
    assert "more constants" in shown
    assert "more constants" not in attnc("dump", f"{window_py}:dilated", "--stage", "mlir", "--no-fold", *SHAPE).out


def test_short_texts_are_not_folded() -> None:
    text = '%c = arith.constant 1 : i64\n%x = tile.load %q at <"b, h, i, d"> : !tile.mem<4, f32>\n[1, 2, 3]\n'
    assert fold(text) == text


def test_explain_runs(attnc, window_py: Path) -> None:
    done = attnc("explain", f"{window_py}:window", "--run", "--backward", *SHAPE)
    assert done.status == 0
    for text in ("roofline", "measured  ", "predicted  ", "backward  ", "of the roof"):
        assert text in done.out, text
    done = attnc("explain", f"{window_py}:window", "--run", "--target", "sm_90", *SHAPE)
    assert done.status == 2
    assert "--run measures this machine" in done.err


def test_inspect_writes_a_page(attnc, window_py: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    done = attnc("inspect", f"{window_py}:dilated", "-o", out, "--backward", *SHAPE)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"{out}: ")
    text = out.read_text()
    assert "live = ((i - j).abs()" in text  # the user's source
    assert "dilated_gradient" in text
    done = attnc("inspect", f"{window_py}:dilated", "-o", tmp_path / "no" / "where.html", *SHAPE)
    assert done.status == 2
