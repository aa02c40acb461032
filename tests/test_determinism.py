"""Compiling is a function: two processes print the same bytes at every stage."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import hashlib, sys
import attnc
from tests.patterns import BY_NAME
for name in ("dilated", "hierarchical", "gqa", "relative_bias"):
    pattern = BY_NAME[name]
    inputs = pattern.inputs(1, 2, 64, 64, 32)
    cpu = attnc.compile(pattern.fn, backend="cpu").lower(*inputs)
    gpu = attnc.compile(pattern.fn, backend="triton").lower(*inputs)
    for low, stages in ((cpu, ("capture", "attn", "tile", "mlir", "llvm")), (gpu, ("tile", "triton"))):
        for stage in stages:
            print(name, stage, hashlib.sha256(low.ir(stage).encode()).hexdigest())
"""


@pytest.mark.parametrize("seed", ["1"])
def test_two_processes_print_the_same_bytes(tmp_path, seed):
    outputs = []
    for n, hash_seed in enumerate(("0", seed)):
        env = os.environ | {"PYTHONHASHSEED": hash_seed, "ATTNC_CACHE_DIR": str(tmp_path / str(n))}
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=root, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert outputs[0].count("\n") == 4 * 7
