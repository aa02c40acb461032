"""The GPU run works from end to end where there is no GPU: tiny sizes, interpreted kernels."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.py"


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True, check=False)


def test_the_plan_has_every_case_and_the_goals_first() -> None:
    done = run("--list")
    lines = done.stdout.splitlines()
    assert len(lines) == 8 * 3 * 2 * 2 + 6, done.stderr
    goals = [bool(line.endswith(("FlexAttention", "cuDNN"))) for line in lines]
    assert goals == sorted(goals, reverse=True)
    assert sum(goals) == 9


def test_quick_and_only_choose() -> None:
    lines = run("--list", "--quick", "--only", "D64 forward").stdout.splitlines()
    assert len(lines) == 9
    assert all(" 4k " in line or "decode 8k" in line for line in lines)


def test_without_a_gpu_only_a_dry_run() -> None:
    done = run("--device", "cpu")
    assert done.returncode == 2
    assert "--dry" in done.stderr


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    before = set(sys.modules)
    yield importlib.import_module("gpu")
    for name in {n for n in sys.modules if n.startswith("gpu")} - before:
        del sys.modules[name]


def test_what_has_to_be_carried_is_named(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name in ("xdsl", "islpy") else name)
    assert gpu.main(["--device", "cpu", "--dry", "--out", str(tmp_path)]) == 2
    assert "missing: xdsl, islpy" in capsys.readouterr().err
    text = (ROOT / "docs" / "gpu.md").read_text()
    assert all(name.replace("_", "-") in text for name in gpu.NEEDED if name != "numpy")  # that comes with torch


def test_results_are_written_and_drawn(gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Made-up times: one case fails, and the others are measured, written and drawn."""

    class Worker:
        def __init__(self, log: Path, environment: dict[str, str] | None = None):
            pass

        def close(self) -> None:
            pass

        def run(self, task: dict[str, Any], timeout: float) -> dict[str, Any]:
            if task["kind"] == "machine":
                return {"name": "none", "copy_gb_per_s": 3000.0}
            if task["case"]["pattern"] == "causal":
                return {"error": "its process ended with -11; see gpu-measure.log"}
            measure = importlib.import_module("gpu_measure")
            times = {"attnc": [1e-3, 1.1e-3, 0.9e-3], "FlexAttention": [2e-3, 2.1e-3, 2e-3]}
            work = {"flop": 1e12} | ({"bytes": 1e9} if task["case"]["pattern"] == "decode" else {})
            row = {"setup_s": {"FlexAttention": 0.5}, "first_call_s": {"attnc": 6.0}, "absent": {}, "right": True}
            return measure.summary(times, work) | row

    monkeypatch.setattr(gpu, "Worker", Worker)
    assert gpu.main(["--device", "cpu", "--dry", "--no-checks", "--jobs", "1", "--out", str(tmp_path)]) == 0
    rows = {row["case"]: row for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert [case for case, row in rows.items() if "error" in row] == [
        "causal 128 D16 forward",
        "causal 128 D16 backward",
    ]
    assert rows["dense 128 D16 forward"]["ratio"] == {"FlexAttention": 2.0}
    assert rows["decode 128 D16 forward"]["of copy's bandwidth"] == 0.333
    pytest.importorskip("matplotlib")
    assert (tmp_path / "gpu.png").stat().st_size > 10_000


def test_a_stage_that_fails_is_recorded_and_the_others_run(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("no such file")

    def measure(run: Any, cases: Any) -> None:
        run.result["rows"] = [{"case": c.name, "error": "not run"} for c in cases]

    for name, stage in {"machine": broken, "check": broken, "prepare": broken, "measure": measure}.items():
        monkeypatch.setattr(gpu.Run, name, stage)
    monkeypatch.setattr(gpu, "draw", broken)
    assert gpu.main(["--device", "cpu", "--dry", "--jobs", "1", "--out", str(tmp_path)]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [text.splitlines()[-1] for text in found["failed"].values()] == ["RuntimeError: no such file"]
    assert len(found["rows"]) == 17


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "rows"), [("window", 2), ("decode", 1)])
def test_dry_run(pattern: str, rows: int, tmp_path: Path) -> None:
    checks = [] if pattern == "window" else ["--no-checks"]
    done = run("--device", "cpu", "--dry", "--jobs", "1", "--only", pattern, *checks, "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["rows"]) == rows
    for row in found["rows"]:
        assert row["right"], row
        assert row["median_ms"]["attnc"] > 0
        assert row["tflops"]["attnc"] > 0
        assert row["first_call_s"]["attnc"] > 0
        assert "SDPA cuDNN" in row["absent"]  # its error is recorded, and the others are measured
        if row["case"].endswith("forward"):
            assert "FlexAttention" in row["ratio"]
            assert row["setup_s"]["FlexAttention"] > 0
    if not checks:
        assert found["checks"] == {"right": 4, "wrong": 0, "not run": 0, "failures": []}
        # FlexAttention has no backward on a CPU, and the preparation that fails says so
        assert [f["case"].split()[-1] for f in found["prepared"]["failures"]] == ["backward"]


def test_what_the_deadline_does_not_reach_is_not_run(tmp_path: Path) -> None:
    done = run("--device", "cpu", "--dry", "--no-checks", "--deadline", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert len(rows) == 17
    assert all(row["error"] == "not run" for row in rows)
