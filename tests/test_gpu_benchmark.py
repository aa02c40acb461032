"""The GPU run works from end to end where there is no GPU: tiny sizes, interpreted kernels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.slow
def test_dry_run_of_everything(tmp_path: Path) -> None:
    done = run("--device", "cpu", "--dry", "--jobs", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["rows"]) == 8 * 2 + 1
    for row in found["rows"]:
        assert row["right"], row
        assert row["median_ms"]["attnc"] > 0
        assert row["tflops"]["attnc"] > 0
        assert row["first_call_s"]["attnc"] > 0
        assert "SDPA cuDNN" in row["absent"]  # its error is recorded, and the others are measured
        if row["case"].endswith("forward"):
            assert "FlexAttention" in row["ratio"]
            assert row["setup_s"]["FlexAttention"] > 0
    assert found["checks"] == {"right": 4, "wrong": 0, "not run": 0, "failures": []}
    # FlexAttention has no backward on a CPU, and the preparations that fail say so
    assert found["prepared"]["cases"] == 9
    assert {f["case"].split()[-1] for f in found["prepared"]["failures"]} == {"backward"}


def test_what_the_deadline_does_not_reach_is_not_run(tmp_path: Path) -> None:
    done = run("--device", "cpu", "--dry", "--no-checks", "--deadline", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert len(rows) == 17
    assert all(row["error"] == "not run" for row in rows)
