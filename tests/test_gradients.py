"""Gradients of every pattern and of everything it captures, on every backend, against float64 eager."""

from __future__ import annotations

import pytest
import torch

import attnc

from .numerics import assert_gradients_match, gradients
from .patterns import BY_NAME, CAPTURED, PATTERNS, Pattern

# (batch, heads, queries, keys, head width, value width): one width, for kernels are compiled for a width
SIZES = {
    "one": (1, 2, 1, 1, 16, 16),
    "prime": (2, 2, 67, 67, 16, 16),
    "tile+1": (1, 2, 65, 65, 16, 16),
    "tile-1": (1, 2, 127, 127, 16, 16),
    "more keys": (1, 2, 13, 139, 16, 16),
    "more queries": (1, 2, 131, 29, 16, 16),
    "blocks": (1, 4, 136, 136, 16, 16),
    "no keys": (1, 2, 3, 0, 16, 16),
    "no queries": (1, 2, 0, 5, 16, 16),
}
SMALL = {
    "one": (1, 2, 1, 1, 16, 16),
    "more keys": (1, 2, 13, 71, 16, 16),
    "more queries": (1, 2, 67, 29, 16, 16),
    "blocks": (2, 2, 24, 24, 16, 16),
}
WIDE = {"wide": (1, 2, 40, 40, 80, 80)}  # narrow ones: see gradcheck
# ways to build a backward: masks, several sources, shared keys, captured tensors
KINDS = ["causal_window", "hierarchical", "gqa", "relative_bias"]
FALLBACK = "error"  # a gradient that is not derived raises

every_pattern = pytest.mark.parametrize("pattern", [*PATTERNS, *CAPTURED], ids=lambda p: p.name)


def check(pattern: Pattern, sizes: dict[str, tuple[int, ...]], backend: str, dtype=torch.float32, **options) -> None:
    """Compile once; at each size compare every gradient, and on the CPU, which has threads, ask for it twice."""
    compiled = attnc.compile(pattern.fn, backend=backend, fallback=FALLBACK, options=options or None)
    for name, size in sizes.items():
        inputs = pattern.inputs(*size, dtype=dtype)
        if inputs is None:
            continue  # the pattern's own eager code refuses these lengths
        (first,) = gradients(compiled, inputs)
        assert_gradients_match(pattern.fn, first, inputs, where=f"{name}:")
        if backend == "cpu":
            (again,) = gradients(compiled, inputs)
            assert all(map(torch.equal, first, again)), f"{name}: a second backward gives other bits"


@every_pattern
def test_cpu(pattern):
    check(pattern, SIZES, "cpu")


@every_pattern
def test_reference(pattern):
    check(pattern, SMALL, "reference")


@every_pattern
def test_triton(pattern):
    check(pattern, SMALL, "triton")


@every_pattern
def test_gradcheck(pattern):
    """Also a repeated backward with other bits fails: gradcheck's tolerance for that is zero."""
    width = 5 if pattern.multiple > 1 else 3  # reshapes and two stages want values as wide as keys
    inputs = pattern.inputs(1, 2, 16, 16, 5, width, dtype=torch.float64)
    compiled = attnc.compile(pattern.fn, backend="cpu", fallback=FALLBACK)
    leaves = [x.requires_grad_() if x.is_floating_point() else x for x in inputs]
    assert torch.autograd.gradcheck(compiled, leaves)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("name", KINDS)
def test_wide_heads(name, backend):
    check(BY_NAME[name], WIDE, backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_cpu_dtypes(name, dtype):
    check(BY_NAME[name], {"prime": SIZES["prime"], "blocks": SIZES["blocks"]}, "cpu", dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_triton_dtypes(name, dtype):
    check(BY_NAME[name], {"blocks": SMALL["blocks"]}, "triton", dtype)


@pytest.mark.parametrize("name", ["dilated", "block_mask", "hierarchical"])
def test_cpu_without_optimisations(name):
    check(BY_NAME[name], {"blocks": SIZES["blocks"]}, "cpu", skip=("dilation", "block-diagonal", "key-ranges"))


@pytest.mark.parametrize("name", ["causal", "dilated", "block_reshape", "gqa"])
@pytest.mark.parametrize("layout", ["heads last", "every other", "reversed storage", "broadcast"])
def test_strided_inputs(name, layout):
    pattern = BY_NAME[name]
    relayout = {
        "heads last": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        "every other": lambda x: torch.stack([x, x + 1], -1)[..., 0],
        "reversed storage": lambda x: x.mT.contiguous().mT,
        "broadcast": lambda x: x[:1].expand(x.shape),
    }[layout]
    inputs = tuple(relayout(x) for x in pattern.inputs(2, 2, 72, 72, 16))
    (found,) = gradients(attnc.compile(pattern.fn, backend="cpu", fallback=FALLBACK), inputs)
    assert_gradients_match(pattern.fn, found, inputs)


@pytest.mark.parametrize("name", ["causal_window", "heads_last"])
def test_strided_cotangents(name):
    """The gradient that a sum sends back has strides of zero, and a transposed use sends a transposed one."""
    pattern = BY_NAME[name]
    inputs = pattern.inputs(1, 2, 40, 40, 16)
    compiled = attnc.compile(pattern.fn, backend="cpu", fallback=FALLBACK)
    for use in (torch.sum, lambda x: (x.mT.contiguous() ** 2).sum()):

        def loss(fn, *x, use=use):
            return use(fn(*x))[None]

        (found,) = gradients(lambda *x: loss(compiled, *x), inputs)
        assert_gradients_match(lambda *x: loss(pattern.fn, *x), found, inputs)


@pytest.mark.parametrize("name, wanted", [
    ("relative_bias", (0,)), ("relative_bias", (1,)), ("relative_bias", (2,)), ("table_twice", (3,)),
    ("row_and_key_gates", (1, 3)), ("row_and_key_gates", (4,)), ("temperature", (3,)),
])  # fmt: skip
def test_only_what_is_asked_for(name, wanted):
    pattern = BY_NAME[name]
    inputs = pattern.inputs(1, 2, 40, 33, 16)
    (found,) = gradients(attnc.compile(pattern.fn, backend="cpu", fallback=FALLBACK), inputs, wanted=wanted)
    assert_gradients_match(pattern.fn, found, inputs, wanted)


def test_a_new_length_batch_or_value_does_not_recompile(monkeypatch):
    from attnc.compiler import driver

    pattern = BY_NAME["relative_bias"]
    compiled = attnc.compile(pattern.fn, backend="cpu", fallback=FALLBACK)
    gradients(compiled, pattern.inputs(1, 2, 33, 33, 16))
    built = []
    for name in ("build", "build_gradient"):
        monkeypatch.setattr(driver, name, lambda *a, **k: built.append(a))
    for b, h, n, m in ((2, 2, 47, 47), (1, 4, 35, 90), (3, 3, 129, 2)):  # up to 32 queries have other tiles
        inputs = pattern.inputs(b, h, n, m, 16, seed=n)
        (found,) = gradients(compiled, inputs)
        assert_gradients_match(pattern.fn, found, inputs)
    assert not built


def test_gradients_do_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    for name in ("gqa", "relative_bias", "temperature"):
        pattern = BY_NAME[name]
        inputs = pattern.inputs(2, 2, 200, 200, 16)
        compiled = attnc.compile(pattern.fn, backend="cpu", fallback=FALLBACK)
        (first,) = gradients(compiled, inputs)
        try:
            torch.set_num_threads(1)
            (again,) = gradients(compiled, inputs)
        finally:
            torch.set_num_threads(threads)
        assert all(map(torch.equal, first, again)), name


@pytest.mark.parametrize("name", ["causal_window", "hierarchical", "gqa"])
def test_few_heads_with_many_keys(name):
    """The key tiles of a head are shared among tasks; the bits do not depend on who runs them."""
    pattern, before = BY_NAME[name], torch.get_num_threads()
    compiled = attnc.compile(pattern.fn, backend="cpu", fallback=FALLBACK)
    inputs = pattern.inputs(1, 2, 600, 600, 16, 16, dtype=torch.float32)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            (found,) = gradients(compiled, inputs)
            results.append(found)
    finally:
        torch.set_num_threads(before)
    assert_gradients_match(pattern.fn, results[0], inputs)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
