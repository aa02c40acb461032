"""Captured tensors with an element for each pair, read as squares where rows lie apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import attnc

from ...numerics import assert_gradients_match, assert_matches, gradients

H = 2


def biased(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT / 4 + bias).softmax(-1) @ v


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT / 4).masked_fill(~keep, -torch.inf).softmax(-1) @ v


def further(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Pairs whose element is not there are masked."""
    n, m = q.shape[-2], k.shape[-2]
    i, j = torch.arange(n)[:, None], torch.arange(m)[None, :]
    inside = (i >= 2) & (j >= 3)
    score = q @ k.mT / 4 + bias[:, (i - 2).clamp(0), (j - 3).clamp(0)]
    return score.masked_fill(~inside, -1e9).softmax(-1) @ v


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rows": lambda x: x,
    "columns": lambda x: x.mT.contiguous().mT,
    "heads last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "one for all rows": lambda x: x[:, :1].expand(x.shape),
    "part of a wider one": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
}
SIZES = [(1, 1), (13, 67), (65, 17), (131, 130)]


def inputs(n: int, m: int, dtype: torch.dtype, layout: str = "rows") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n + m)
    tensors = [torch.randn(1, H, size, 16, generator=generator).to(dtype) for size in (n, m, m)]
    return [*tensors, LAYOUTS[layout](torch.randn(H, n, m, generator=generator).to(dtype))]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_biases(dtype: torch.dtype, layout: str) -> None:
    compiled = attnc.compile(biased, fallback="error")
    for n, m in SIZES:
        x = inputs(n, m, dtype, layout)
        assert_matches(biased, compiled(*x), x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_of_bytes(layout: str) -> None:
    compiled = attnc.compile(masked, fallback="error")
    for n, m in SIZES:
        *x, bias = inputs(n, m, torch.float32, layout)
        keep = LAYOUTS[layout](bias > -0.5)
        assert_matches(masked, compiled(*x, keep), [*x, keep])


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_gradients(layout: str) -> None:
    compiled = attnc.compile(biased, fallback="error")
    for n, m in SIZES[1:]:
        x = inputs(n, m, torch.float32, layout)
        (found,) = gradients(compiled, x)
        assert_gradients_match(biased, found, x)


def test_elements_that_are_not_there() -> None:
    compiled = attnc.compile(further, fallback="error")
    for n, m in SIZES[1:]:
        *x, bias = inputs(n, m, torch.float32)
        x.append(bias[:, : max(n - 2, 1), : max(m - 3, 1)])
        assert_matches(further, compiled(*x), x)


@pytest.mark.parametrize("target", ["cpu-avx2", "cpu-generic"])
def test_narrower_vectors(target: str) -> None:
    compiled = attnc.compile(biased, fallback="error", options={"target": target})
    for layout in ("rows", "columns"):
        x = inputs(65, 35, torch.float32, layout)
        assert_matches(biased, compiled(*x), x)


def test_what_is_read_as_squares() -> None:
    """A bias of the pair is; one that the distance decides has one address for each of its rows."""
    x = inputs(64, 64, torch.float32)
    assert "@square_f32_" in attnc.compile(biased).lower(*x).ir("mlir")

    def by_distance(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
        return (q @ k.mT / 4 + table[:, i - j + 63]).softmax(-1) @ v

    x[3] = torch.randn(H, 127)
    assert "@square_" not in attnc.compile(by_distance).lower(*x).ir("mlir")
