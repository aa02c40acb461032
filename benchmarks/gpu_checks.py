"""Correctness on the GPU: the pattern table of the tests, forward and backward, within the limits of the tests.

The oracle, float64 eager PyTorch, and eager's own error, from which the limit is derived, are computed on the CPU.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from gpu_measure import reason
from torch import Tensor

import attnc

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
patterns = importlib.import_module("patterns")
numerics = importlib.import_module("numerics")

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
# (batch, heads, queries, keys, head width, value width): one width mostly, for kernels are compiled for a width
FORWARD = {
    "one": (1, 2, 1, 1, 16, 16),
    "prime": (2, 2, 67, 67, 16, 16),
    "tile+1": (1, 2, 129, 129, 16, 16),
    "more keys": (1, 2, 13, 139, 16, 16),
    "blocks": (1, 4, 136, 136, 16, 16),
    "no keys": (1, 2, 3, 0, 16, 16),
    "long": (1, 2, 504, 504, 64, 64),
    "wide": (1, 2, 72, 72, 80, 80),
}
BACKWARD = {
    "one": (1, 2, 1, 1, 16, 16),
    "more keys": (1, 2, 13, 71, 16, 16),
    "more queries": (1, 2, 67, 29, 16, 16),
    "blocks": (2, 2, 136, 136, 16, 16),
    "long": (1, 2, 264, 264, 64, 64),
}
DRY = {"blocks": (1, 2, 24, 24, 16, 16)}
DRY_PATTERNS = ("causal_window", "relative_bias")


def tasks(dry: bool) -> list[dict[str, Any]]:
    """The slowest to compile first: gradients."""
    names = DRY_PATTERNS if dry else tuple(patterns.BY_NAME)
    dtypes = ("f32",) if dry else tuple(DTYPES)
    return [
        {"kind": "check", "pattern": name, "dtype": dtype, "direction": direction, "dry": dry}
        for direction in ("backward", "forward")
        for name in names
        for dtype in dtypes
    ]


def check(pattern: str, dtype: str, direction: str, device: str, dry: bool) -> dict[str, Any]:
    """Every size of one pattern: what is wrong, by the size's name."""
    found = patterns.BY_NAME[pattern]
    compiled = attnc.compile(found.fn, backend="triton", fallback="error")
    wrong: dict[str, str] = {}
    for name, size in (DRY if dry else FORWARD if direction == "forward" else BACKWARD).items():
        inputs = found.inputs(*size, dtype=DTYPES[dtype])
        if inputs is None:
            continue  # the pattern's own eager code refuses these lengths

        def moved(*tensors: Tensor) -> Tensor:
            # the table's functions make their positions on the default device
            with torch.device(device):
                return compiled(*(x.to(device) for x in tensors)).cpu()

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if direction == "forward":
                    numerics.assert_matches(found.fn, moved(*inputs), inputs)
                else:
                    (gradients,) = numerics.gradients(moved, inputs)
                    numerics.assert_gradients_match(found.fn, gradients, inputs)
        except Exception as error:
            wrong[name] = reason(error)
            if _context_is_lost(device):
                break  # and every call after it fails as well
    return {"wrong": wrong}


def _context_is_lost(device: str) -> bool:
    try:
        if device != "cpu":
            torch.cuda.synchronize()
        return False
    except RuntimeError:
        return True
