"""What starting a command imports, in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torch_mlir", "triton", "matplotlib", "optuna")
CODE = """
import sys
from attnc.compiler.cli.app import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", [m for m in %r if m in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["--help", "passes", "opt", "dump --help"])
def test_no_torch(command: str, attn_mlir: Path) -> None:
    args = [*command.split(), *([str(attn_mlir)] if command == "opt" else [])]
    done = subprocess.run([sys.executable, "-c", CODE % (HEAVY,), *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("loaded: []")
    assert done.stdout


def test_explain_imports_what_it_uses(window_py: Path) -> None:
    unused = ("torch_mlir", "triton", "islpy", "sympy", "networkx", "rich", "matplotlib", "torch._dynamo")
    args = ["explain", f"{window_py}:dilated", "--shape", "B=1,H=8,N=1048576,D=64"]
    done = subprocess.run([sys.executable, "-c", CODE % (unused,), *args], capture_output=True, text=True, check=False)
    assert "fused, 1 kernel" in done.stdout
    assert done.stderr.strip() == "loaded: []"


def test_the_process_ends_at_once(window_py: Path) -> None:
    """But not before what was registered for its end has run, and all output is written."""
    farewell = "import atexit\natexit.register(print, 'farewell')\n"
    window_py.write_text(farewell + window_py.read_text())
    command = [sys.executable, "-m", "attnc", "dump", f"{window_py}:window", "--stage", "attn", "--shape"]
    done = subprocess.run([*command, "B=1,H=2,N=100,D=16"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("builtin.module")
    assert done.stdout.endswith("farewell\n")
    assert subprocess.run(command[:5], capture_output=True, check=False).returncode == 2


def test_a_closed_pipe_is_quiet(attn_mlir: Path) -> None:
    command = f"{sys.executable} -m attnc opt {attn_mlir} --generic | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
