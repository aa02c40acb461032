"""Every pattern of the table on every backend, at awkward sizes, against float64 eager."""

from __future__ import annotations

import pytest
import torch

import attnc
from attnc.compiler import driver

from .numerics import assert_matches
from .patterns import BY_NAME, CAPTURED, PATTERNS, Pattern

# (batch, heads, queries, keys, head width, value width)
SIZES = {
    "one": (1, 2, 1, 1, 16, 16),
    "prime": (2, 2, 67, 67, 16, 16),
    "tile": (1, 2, 64, 64, 64, 64),
    "tile+1": (1, 2, 65, 65, 5, 5),
    "tile-1": (1, 2, 127, 127, 80, 80),
    "more keys": (1, 2, 13, 139, 5, 7),
    "more queries": (1, 2, 131, 29, 16, 24),
    "blocks": (1, 4, 136, 136, 32, 32),
    "no keys": (1, 2, 3, 0, 8, 8),
    "no queries": (1, 2, 0, 5, 8, 8),
}
OPTIMISATIONS = ("dilation", "block-diagonal", "key-ranges")


def run(pattern: Pattern, size: str, backend: str, dtype: torch.dtype = torch.float32, **options) -> None:
    inputs = pattern.inputs(*SIZES[size], dtype=dtype)
    if inputs is None:
        return  # the pattern's own eager code refuses these lengths
    compiled = attnc.compile(pattern.fn, backend=backend, fallback="error", options=options or None)
    assert_matches(pattern.fn, compiled(*inputs), inputs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_reference(pattern, size):
    run(pattern, size, "reference")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_cpu(pattern, size):
    run(pattern, size, "cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_cpu_dtypes(pattern, dtype):
    for size in ("prime", "blocks", "more keys"):
        run(pattern, size, "cpu", dtype)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("pattern", CAPTURED, ids=lambda p: p.name)
def test_captured_tensors(pattern, backend):
    for size in ("one", "prime", "more queries", "no keys"):
        run(pattern, size, backend)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_cpu_without_optimisations(pattern):
    for size in ("prime", "blocks"):
        run(pattern, size, "cpu", skip=OPTIMISATIONS)


@pytest.mark.parametrize("size", ["one", "tile+1", "more keys", "blocks", "no keys"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: p.name)
def test_triton(pattern, size):
    run(pattern, size, "triton")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["causal_window", "dilated", "hierarchical", "gqa", "relative_bias"])
def test_triton_dtypes(name, dtype):
    run(BY_NAME[name], "blocks", "triton", dtype)


@pytest.mark.parametrize("pattern", [*PATTERNS, *CAPTURED], ids=lambda p: p.name)
def test_everything_fuses(pattern):
    inputs = pattern.inputs(*SIZES["blocks"])
    explanation = attnc.compile(pattern.fn, backend="cpu", fallback="error").lower(*inputs).explain()
    assert explanation.fused


@pytest.mark.parametrize("name", ["dilated", "block_mask", "block_reshape", "hierarchical", "causal", "gqa"])
@pytest.mark.parametrize("layout", ["heads last", "every other", "reversed storage", "broadcast"])
def test_strided_inputs(name, layout):
    pattern = BY_NAME[name]
    inputs = pattern.inputs(2, 2, 72, 72, 16)
    relayout = {
        "heads last": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "every other": lambda x: torch.stack([x, x + 1], -1)[..., 0],
        "reversed storage": lambda x: x.mT.contiguous().mT,
        "broadcast": lambda x: x[:1].expand(x.shape),
    }[layout]
    inputs = tuple(relayout(x) for x in inputs)
    assert_matches(pattern.fn, attnc.compile(pattern.fn, backend="cpu", fallback="error")(*inputs), inputs)


def test_a_new_length_batch_or_value_does_not_recompile(monkeypatch):
    pattern = BY_NAME["relative_bias"]
    compiled = attnc.compile(pattern.fn, backend="cpu", fallback="error")
    compiled(*pattern.inputs(1, 2, 33, 33, 16))
    built = []
    monkeypatch.setattr(driver, "build", lambda *a, **k: built.append(a))
    for b, h, n, m in ((2, 2, 47, 47), (1, 4, 35, 90), (3, 3, 129, 2)):  # up to 32 queries have other tiles
        inputs = pattern.inputs(b, h, n, m, 16, seed=n)
        assert_matches(pattern.fn, compiled(*inputs), inputs)
    assert not built


def test_results_do_not_depend_on_the_number_of_threads():
    pattern = BY_NAME["causal"]
    inputs = pattern.inputs(2, 3, 200, 200, 32)
    compiled = attnc.compile(pattern.fn, backend="cpu", fallback="error")
    first = compiled(*inputs)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(compiled(*inputs), first)
    finally:
        torch.set_num_threads(threads)
