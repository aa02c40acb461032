"""What scores and masks have in common from pair to pair, and from window to window, is computed once."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import attnc
from attnc.backends.mlir_cpu import target
from attnc.backends.mlir_cpu.ahead import wanted
from attnc.backends.mlir_cpu.lower import lower
from attnc.backends.mlir_cpu.tables import tables
from attnc.ir.tile import KernelOp, kernels_of

from ...numerics import assert_gradients_match, assert_matches, cotangents
from .kernels import DTYPES

SIDE, SHIFT = 5, 2
INF = float("inf")


def partition(x: Tensor) -> Tensor:
    x = x.roll((-SHIFT, -SHIFT), (-3, -2)).unflatten(-2, (-1, SIDE)).unflatten(-4, (-1, SIDE)).transpose(-4, -3)
    return x.flatten(-3, -2).flatten(-4, -3)


def bias(table: Tensor) -> Tensor:
    y, x = torch.arange(SIDE * SIDE) // SIDE, torch.arange(SIDE * SIDE) % SIDE
    offset = (y[:, None] - y + SIDE - 1) * (2 * SIDE - 1) + x[:, None] - x + SIDE - 1
    return table[offset].permute(2, 0, 1)


def apart(rows: int, columns: int) -> Tensor:
    row, column = torch.arange(rows)[:, None], torch.arange(columns)[None, :]
    region = 2 * (row >= rows - SHIFT).int() + (column >= columns - SHIFT).int()
    region = region.unflatten(1, (-1, SIDE)).unflatten(0, (-1, SIDE)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return region[:, :, None] != region[:, None, :]


def shifted(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """Shifted windows of an image: one bias for all windows, and a mask that depends on the window."""
    hidden = apart(*q.shape[2:4])
    q, k, v = partition(q), partition(k), partition(v)
    return ((q @ k.mT / 4 + bias(table)[:, None]).masked_fill(hidden, -INF)).softmax(-1) @ v


def by_window(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """Each window has biases of its own."""
    q, k, v = partition(q), partition(k), partition(v)
    return (q @ k.mT / 4 + table).softmax(-1) @ v


def inputs(batch: int, heads: int, rows: int, columns: int, width: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, heads, rows, columns, width, dtype=dtype) for _ in "qkv"]


def kernels(fn: Callable[..., Tensor], *args: Tensor) -> tuple[KernelOp, KernelOp]:
    """The kernels of the forward and of the backward."""
    program = attnc.compile(fn, backend="cpu").lower(*args)
    (forward,), (backward,) = (kernels_of(x.module("tile")).values() for x in (program, program.backward()))
    return forward, backward


@pytest.fixture(scope="module")
def of_windows() -> tuple[KernelOp, KernelOp]:
    return kernels(shifted, *inputs(1, 2, 10, 15, 8, torch.float32), torch.randn((2 * SIDE - 1) ** 2, 2))


def test_what_is_kept(of_windows: tuple[KernelOp, KernelOp]) -> None:
    """The bias of a pair for each head, of two tiles of rows at once; the regions of rows and keys for each window."""
    for kernel in of_windows:
        found = {tuple(sorted(t.axes)): t for t in tables(kernel, kernel.rows.data.size, 16, "f32")}
        assert set(found) == {("i", "j"), ("i",), ("j",)}
        assert found["i", "j"].dims == ("h",)
        assert found["i",].dims == found["j",].dims == ("g",)
        assert found["i", "j"].width == 32
        assert (found["i", "j"].count, found["i", "j"].element, found["j",].element) == (25, "f32", "i32")


def test_scores_neither_gather_nor_divide(of_windows: tuple[KernelOp, KernelOp]) -> None:
    for kernel in of_windows:
        text = lower(kernel, target.TARGETS["avx512"]).text
        assert text.count("masked.gather") == 1  # where the table is filled
        scores = text[text.index("// %score = ") :]
        assert not re.search(r"(div|rem)si .*vector", scores)


def test_what_depends_on_the_window_is_not_kept() -> None:
    args = (*inputs(1, 2, 10, 15, 8, torch.float32), torch.randn(2, 6, 25, 25))
    assert not [t for t in tables(kernels(by_window, *args)[0], 32, 16, "f32") if len(t.axes) == 2]


SIZES = [(1, 1, 5, 5, 8), (3, 2, 10, 15, 5), (1, 5, 25, 10, 17)]
CASES = [("f32", "", size) for size in SIZES] + [
    (n, t, SIZES[1]) for n, t in (("f64", ""), ("bf16", ""), ("f32", "avx2"))
]


@pytest.mark.parametrize(("name", "on", "size"), CASES, ids=str)
def test_numbers(name: str, on: str, size: tuple[int, ...]) -> None:
    """Heads and images follow each other in one thread, each with a table of its own."""
    args = [*inputs(*size, DTYPES[name]), torch.randn((2 * SIDE - 1) ** 2, size[1], dtype=DTYPES[name])]
    check(shifted, args, {"target": f"cpu-{on}"} if on else {})


@pytest.mark.parametrize("rows", [16, 32, 64])
def test_windows_of_several_tiles(rows: int) -> None:
    args = [*inputs(2, 2, 10, 15, 8, torch.float32), torch.randn((2 * SIDE - 1) ** 2, 2)]
    check(shifted, args, {"choice": f"rows={rows},keys=32", "gradient_choice": f"rows={rows},keys=32"})


def test_biases_of_each_window() -> None:
    check(by_window, [*inputs(2, 2, 10, 15, 8, torch.float32), torch.randn(2, 6, 25, 25)], {})


def check(fn: Callable[..., Tensor], args: list[Tensor], options: dict[str, str]) -> None:
    """Forward and backward against float64 eager."""
    leaves = [x.clone().requires_grad_() for x in args]
    out = attnc.compile(fn, backend="cpu", fallback="error", options=options)(*leaves)
    assert_matches(fn, out.detach(), args)
    found = torch.autograd.grad(out, leaves, cotangents(out, 1)[0])
    assert_gradients_match(fn, found, args)


def test_rows_of_the_next_window_are_asked_for(of_windows: tuple[KernelOp, KernelOp]) -> None:
    """Queries, keys, values, results; gradients of keys and values besides, for those of queries are written inside."""
    forward, backward = of_windows
    rows = forward.rows.data.size
    assert [w.most for w in wanted(forward, gaps=False)] == [rows, 25, 25, rows]
    assert [w.op.name for w in wanted(backward, gaps=False)] == ["tile.load"] * 4 + ["tile.store"] * 2
