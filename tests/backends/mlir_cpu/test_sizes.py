"""Every size, head width and layout is computed right, forward and backward, and inputs are never copied."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

import attnc

from ...numerics import assert_gradients_match, assert_matches, gradients
from ...patterns import BY_NAME
from .kernels import DTYPES

LENGTHS = (1, 2, 15, 16, 17, 63, 64, 65, 127, 131)
# (pattern, type, head width, value width): each is compiled, so there are few
WIDTHS = [
    ("dense", "f32", 1, 1), ("dense", "f32", 256, 129), ("dense", "f64", 15, 17), ("dense", "bf16", 63, 5),
    ("dense", "f16", 255, 33), ("causal", "f32", 17, 250), ("causal", "bf16", 80, 96), ("window", "f32", 65, 64),
    ("window", "f64", 33, 8), ("window", "f16", 31, 2), ("dilated", "bf16", 34, 36), ("dilated", "f16", 7, 130),
    ("hierarchical", "f32", 24, 47),
]  # fmt: skip


def _strided(b: int, h: int, n: int, d: int) -> torch.Tensor:
    return torch.randn(b, h, 2 * n, 3 * d, dtype=torch.float64)[:, :, ::2, ::3]


# layouts of (batch, heads, length, width); no row need start at an aligned address
LAYOUTS: dict[str, Callable[[int, int, int, int], torch.Tensor]] = {
    "contiguous": lambda b, h, n, d: torch.randn(b, h, n, d, dtype=torch.float64),
    "heads last": lambda b, h, n, d: torch.randn(b, n, h, d, dtype=torch.float64).transpose(1, 2),
    "one of three": lambda b, h, n, d: torch.randn(b, n, 3, h, d, dtype=torch.float64)[:, :, 1].transpose(1, 2),
    "length last": lambda b, h, n, d: torch.randn(b, h, d, n, dtype=torch.float64).mT,
    "batch last": lambda b, h, n, d: torch.randn(n, d, h, b, dtype=torch.float64).permute(3, 2, 0, 1),
    "shared heads": lambda b, h, n, d: torch.randn(b, 1, n, d, dtype=torch.float64).expand(b, h, n, d),
    "equal rows": lambda b, h, n, d: torch.randn(b, h, 1, d, dtype=torch.float64).expand(b, h, n, d),
    "strided": _strided,
    "overlapping": lambda b, h, n, d: torch.randn(b, h, n + d, dtype=torch.float64).unfold(-1, d, 1)[:, :, :n],
    "unaligned": lambda b, h, n, d: torch.randn(b, h, n, d + 3, dtype=torch.float64)[..., 1 : d + 1],
}


def tensor(layout: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Random values in this layout, in the memory of one tensor of that type."""
    x = LAYOUTS[layout](*shape)
    base = torch.as_strided(x, (_extent(x),), (1,), 0).to(dtype)
    return torch.as_strided(base, x.shape, x.stride(), x.storage_offset())


def _extent(x: torch.Tensor) -> int:
    return x.untyped_storage().nbytes() // x.element_size()


@pytest.mark.parametrize(("name", "dt", "width", "value_width"), WIDTHS)
def test_any_size_and_layout(name: str, dt: str, width: int, value_width: int) -> None:
    pattern, dtype = BY_NAME[name], DTYPES[dt]
    compiled = attnc.compile(pattern.fn, backend="cpu", fallback="error")

    @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.sampled_from(LENGTHS),
        st.sampled_from(LENGTHS),
        st.lists(st.sampled_from(sorted(LAYOUTS)), min_size=3, max_size=3),
        st.sampled_from([(1, 1), (2, 3)]),
    )
    def check(n: int, m: int, layouts: list[str], batch: tuple[int, int]) -> None:
        if pattern.square:
            n = m = -(-n // pattern.multiple) * pattern.multiple
        torch.manual_seed(n * 1000 + m)
        q, k, v = (
            tensor(layout, dtype, *batch, *size)
            for layout, size in zip(layouts, [(n, width), (m, width), (m, value_width)], strict=True)
        )
        assert_matches(pattern.fn, compiled(q, k, v), [q, k, v])
        assert_gradients_match(pattern.fn, gradients(compiled, [q, k, v], 1)[0], [q, k, v])

    check()


def allocated(run: Callable[[], object]) -> int:
    """Bytes that a call takes from PyTorch's allocator, given back or not."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as found:
        run()
    return sum(max(e.cpu_memory_usage, 0) for e in found.events() if e.name == "[memory]")


@pytest.mark.parametrize(("dt", "d", "e"), [("f32", 17, 250), ("bf16", 80, 96)])
def test_inputs_are_not_copied(dt: str, d: int, e: int) -> None:
    """Memory for results, row statistics and sums in progress; nothing for padding, transposing, converting."""
    b, h, n, m = 2, 3, 65, 131
    dtype, pattern = DTYPES[dt], BY_NAME["causal"]
    compiled = attnc.compile(pattern.fn, backend="cpu", fallback="error")
    size = torch.empty(0, dtype=dtype).element_size()
    forward = b * h * n * (e * size + (8 if dt == "f32" else 4))  # the weights of a row, or its log-sum-exp
    backward = b * h * ((n * d + m * d + m * e) * size + n * 4 + n * d * 4)
    several = ["contiguous", "heads last", "length last", "strided"]
    for layouts in zip(several, several[1:] + several[:1], several[2:] + several[:2], strict=True):
        q, k, v = (
            tensor(layout, dtype, b, h, *s).requires_grad_()
            for layout, s in zip(layouts, [(n, d), (m, d), (m, e)], strict=True)
        )
        out = compiled(q, k, v)
        gradient = partial(torch.autograd.grad, out, (q, k, v), torch.ones_like(out), retain_graph=True)
        gradient()  # which compiles
        # the allocator rounds up each of its few blocks
        assert allocated(partial(compiled, q, k, v)) <= forward + 10 * 64, layouts
        assert allocated(gradient) <= backward + 10 * 64, layouts


def test_tokens_that_lie_side_by_side_move_as_vectors() -> None:
    """Of queries and results as they are, of keys and values by squares; only other gaps take element by element."""
    text = attnc.compile(BY_NAME["dense"].fn, backend="cpu").lower(*torch.empty(3, 2, 3, 65, 20)).ir("mlir")
    assert len(re.findall(r"llvm.func internal @pack_f32_(16|4)_32\(", text)) == 2
    assert len(re.findall(r"llvm.call @pack_f32_", text)) == 4  # keys and values, 16 features and 4
