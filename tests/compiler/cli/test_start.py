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


def test_a_closed_pipe_is_quiet(attn_mlir: Path) -> None:
    command = f"{sys.executable} -m attnc opt {attn_mlir} --generic | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
