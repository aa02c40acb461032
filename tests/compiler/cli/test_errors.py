"""A user's mistake gives a status and a few clear lines, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

SHAPE = "B=1,H=2,N=100,D=16"


@pytest.mark.parametrize(
    "target, message",
    [
        ("missing.py:f", "no such file: missing.py"),
        ("{file}:windw", "did you mean 'window'"),
        ("{file}", "write path/file.py:function"),
        ("{file}:CALLS", "is list, not a function"),
        ("{file}:Layer", "is a class; name one of its methods"),
        ("no.such.module:f", "no such module: no.such.module"),
    ],
)
def test_target(attnc, window_py: Path, target: str, message: str) -> None:
    done = attnc("dump", target.format(file=window_py), "--shape", SHAPE)
    assert done.status == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) <= 3


def test_a_bare_file_lists_what_it_has(attnc, window_py: Path) -> None:
    assert "has: window, compiled, dilated, biased, Layer" in attnc("dump", str(window_py)).err


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "give --shape B=1,H=8,N=4096,D=64, or define a function example_inputs()"),
        (["--shape", "B=1;H=2"], "cannot read 'B=1;H=2' in --shape"),
        (["--shape", "N=100"], "lacks B, H, D"),
        (["--shape", "N=1,N=2"], "gives N twice"),
        (["--shape", SHAPE, "--dtype", "f23"], "unknown --dtype 'f23'; did you mean 'f32'?"),
        (["--shape", SHAPE, "--device", "gpu"], "unknown --device 'gpu'"),
        (["--shape", SHAPE, "--backend", "cup"], "did you mean 'cpu'?"),
        (["--shape", SHAPE, "--arg", "reach=x"], "cannot read the value of --arg"),
        (["--shape", SHAPE, "--arg", "bias=[Q]"], "does not give Q"),
        (["--shape", SHAPE, "--arg", "rech=3"], "did you mean 'reach'?"),
    ],
)
def test_inputs(attnc, window_py: Path, options: list[str], message: str) -> None:
    done = attnc("validate", f"{window_py}:dilated", *options)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_parameter_without_a_value(attnc, window_py: Path) -> None:
    done = attnc("dump", f"{window_py}:biased", "--shape", SHAPE)
    assert done.status == 2
    assert "parameter 'bias'" in done.err
    assert "--arg 'bias=[H, N]'" in done.err


@pytest.mark.parametrize("option, value, known", [("--stage", "atn", "attn"), ("--target", "sm90", "sm_90")])
def test_unknown_names(attnc, window_py: Path, option: str, value: str, known: str) -> None:
    done = attnc("dump", f"{window_py}:window", "--shape", SHAPE, option, value)
    assert done.status == 2
    assert f"'{known}'" in done.err


def test_a_file_that_does_not_import(attnc, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = 1\ny = x.nothing\n")
    done = attnc("dump", f"{path}:f")
    assert done.status == 2
    assert "AttributeError" in done.err
    assert "line 2: y = x.nothing" in done.err


def test_debug_shows_the_traceback(window_py: Path) -> None:
    from attnc.compiler.cli.app import main
    from attnc.compiler.targets import TargetError

    with pytest.raises(TargetError):
        main(["dump", f"{window_py}:nothing", "--debug"])


def test_output_into_a_missing_folder(attnc, attn_mlir: Path, tmp_path: Path) -> None:
    done = attnc("opt", attn_mlir, "-o", tmp_path / "no" / "out.mlir")
    assert done.status == 2
    assert "there is no folder" in done.err
