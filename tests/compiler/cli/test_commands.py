"""``dump``, ``explain``, ``validate``, ``passes`` and ``doctor`` on small functions."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import pytest

from attnc.compiler.analysis import live_area, walked
from attnc.compiler.passes import PASSES

SHAPE = ["--shape", "B=1,H=2,N=100,D=16"]


def test_dump_attn_pipes_into_opt(attnc, window_py: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dumped = attnc("dump", f"{window_py}:dilated", "--stage", "attn", *SHAPE)
    assert (dumped.status, dumped.err) == (0, "")
    assert "attn.attend" in dumped.out
    monkeypatch.setattr("sys.stdin", io.StringIO(dumped.out))
    done = attnc("opt", "-p", "dilation", "-")
    assert (done.status, done.err) == (0, "")
    assert "r < 8" in done.out


@pytest.mark.parametrize("stage, text", [("capture", "matmul"), ("attn", "attn.attend"), ("tile", "tile.kernel")])
def test_dump_stages(attnc, window_py: Path, tmp_path: Path, stage: str, text: str) -> None:
    out = tmp_path / "out"
    done = attnc("dump", f"{window_py}:compiled", "--stage", stage, "-o", out, *SHAPE)
    assert (done.status, done.out, done.err) == (0, "", "")
    assert text in out.read_text()


def test_a_method(attnc, window_py: Path) -> None:
    assert "attn.attend" in attnc("dump", f"{window_py}:Layer.forward", "--stage", "attn", *SHAPE).out


def test_further_arguments(attnc, window_py: Path) -> None:
    done = attnc("dump", f"{window_py}:biased", "--stage", "attn", *SHAPE, "--arg", "bias=[H, N, N]")
    assert "bias[h, i, j]" in done.out


def test_example_inputs(attnc, window_py: Path) -> None:
    text = "def example_inputs():\n    return (torch.zeros(1, 2, 8, 4),) * 3, {}\n"
    window_py.write_text(window_py.read_text() + text)
    assert "attn.attend" in attnc("dump", f"{window_py}:dilated", "--stage", "attn").out
    assert "bf16" in attnc("dump", f"{window_py}:dilated", "--stage", "attn", "--dtype", "bf16").out


def test_example_inputs_by_function(attnc, window_py: Path) -> None:
    inputs = "{'dilated': (torch.zeros(1, 2, 8, 4),) * 3, 'window': (torch.zeros(1, 2, 8, 2),) * 3}"
    text = f"def example_inputs():\n    return {inputs}"
    window_py.write_text(f"{window_py.read_text()}\n{text}\n")
    assert "width 4" in attnc("dump", f"{window_py}:dilated", "--stage", "attn").out
    assert "width 2" in attnc("dump", f"{window_py}:window", "--stage", "attn").out
    done = attnc("dump", f"{window_py}:biased", "--stage", "attn")
    assert (done.status, "arguments for dilated, window, and none for biased" in done.err) == (2, True)


def test_explain_a_million_tokens_looks_at_few_rows(attnc, window_py: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: Counter[int] = Counter()  # tiles, by their height
    rows = live_area.Points.rows

    def counted(points, size, most=None):
        for env in rows(points, size, most):
            evaluated[size] += len(env["t"])
            yield env

    monkeypatch.setattr(live_area.Points, "rows", counted)
    done = attnc("explain", f"{window_py}:dilated", "--shape", "B=1,H=8,N=1048576,D=64")
    assert evaluated[1] <= 1 << 13  # of 8 Mi rows
    assert evaluated.total() <= 2 * walked.MOST_TILES  # the cost model's: of tiles, and of vectors of rows
    assert done.status == 0
    assert "dilated: fused, 1 kernel" in done.out
    assert "every 8th key" in done.out


def test_explain_for_the_interpreter(attnc, window_py: Path) -> None:
    done = attnc("explain", f"{window_py}:window", "--backend", "reference", *SHAPE)
    assert "window: fused, 1 kernel for reference" in done.out


def test_explain_draws(attnc, window_py: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "map.svg"
    assert attnc("explain", f"{window_py}:window", *SHAPE, "--picture", picture).status == 0
    assert picture.read_text().startswith("<?xml")


def test_validate(attnc, window_py: Path) -> None:
    done = attnc("validate", f"{window_py}:window", "--backend", "reference", *SHAPE)
    assert done.status == 0, done.out + done.err
    assert "output" in done.out
    assert "grad q" in done.out


def test_backward(attnc, window_py: Path) -> None:
    assert "attn.attend_gradient" in attnc("dump", f"{window_py}:window", "--backward", "--stage", "attn", *SHAPE).out
    done = attnc("explain", f"{window_py}:window", "--backward", *SHAPE)
    assert done.status == 0
    assert "gradient: 2 kernels" in done.out
    assert "gradient" not in attnc("explain", f"{window_py}:window", *SHAPE).out


def test_explain_for_a_gpu_says_what_the_machine_code_needs(attnc, window_py: Path) -> None:
    pytest.importorskip("triton")
    done = attnc("explain", f"{window_py}:window", "--target", "sm_90", "--dtype", "bf16", *SHAPE)
    assert done.status == 0, done.err
    for part in (
        "registers, no spills",
        "of 227 KiB shared memory",
        "GMMA instructions",
        "main loop",
        "on the whole GPU",
        "for each of 132 multiprocessors",
    ):
        assert part in done.out
    assert "registers" not in attnc("explain", f"{window_py}:window", "--target", "cpu", *SHAPE).out


def test_gradcheck(attnc, window_py: Path) -> None:
    done = attnc("validate", f"{window_py}:window", "--gradcheck", "--shape", "B=1,H=1,N=9,D=2")
    assert done.status == 0, done.out + done.err
    assert "gradcheck (float64, fused)" in done.out
    assert done.out.count("every entry") == 3


def test_passes(attnc) -> None:
    done = attnc("passes")
    assert done.status == 0
    assert all(name in done.out for name in PASSES)
    assert "before::" in attnc("passes", "dilation").out
    assert attnc("passes", "dilaton").status == 2


def test_doctor(attnc) -> None:
    done = attnc("doctor", "--no-run")
    assert done.status == 0, done.err
    assert "torch" in done.out
    assert "cache" in done.out


def test_doctor_notices_a_misspelt_variable(attnc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNC_CACHE_DRI", "/tmp")
    assert "ATTNC_CACHE_DIR" in attnc("doctor", "--no-run").out


@pytest.mark.parametrize("package, fatal", [("torch", True), ("triton", False)])
def test_doctor_names_what_is_too_old(package: str, fatal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnc.compiler import doctor

    monkeypatch.setattr(doctor, "version", lambda name: "2.10.1+cpu" if name == package else "9.0")
    (problem,) = [p for p in doctor.diagnose(run=False).problems if "too old" in p.what]
    assert problem.what == f"{package} 2.10.1+cpu is too old"
    assert f"'{package}>=" in problem.cure
    assert problem.fatal == fatal
