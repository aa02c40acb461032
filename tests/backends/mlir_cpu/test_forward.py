"""Layouts, dtypes, widths and awkward sizes of one forward kernel."""

from __future__ import annotations

import pytest

from .kernels import Forward, check_forward

TWO_LOOPS = ((("0, M // 2", "M // 2, (M + M // 2) // 2"), 32), (("(M + M // 2) // 2, M",), 100))


@pytest.mark.parametrize("dt", ["f32", "f64", "bf16", "f16"])
@pytest.mark.parametrize("layout", ["bhnd", "bnhd", "bhdn"])
def test_dtypes_and_strides(dt: str, layout: str) -> None:
    check_forward(Forward(D=20, E=33, dt=dt), layout=layout)


@pytest.mark.parametrize(("d", "e"), [(1, 1), (5, 3), (64, 80), (128, 64)])
def test_head_widths(d: int, e: int) -> None:
    check_forward(Forward(D=d, E=e))


@pytest.mark.parametrize("length", [(63, 64), (64, 65), (65, 63), (127, 3), (129, 257), (1, 300), (64, 1)])
def test_lengths(length: tuple[int, int]) -> None:
    check_forward(Forward(), [length])


@pytest.mark.parametrize("rows", [1, 16, 24, 80, 128])
def test_row_tiles(rows: int) -> None:
    lengths = [(65, 130), (1, 1), (7, 13), (64, 0), (0, 5)]
    if rows == 1:  # the interpreter takes one task a row
        lengths = [(9, 130), (1, 1), (7, 13), (3, 0), (0, 5)]
    check_forward(Forward(rows=rows), lengths)


@pytest.mark.parametrize("target", ["avx2", "generic"])
@pytest.mark.parametrize("dt", ["f32", "f64", "bf16"])
def test_vector_widths(target: str, dt: str) -> None:
    check_forward(Forward(D=20, E=33, dt=dt), target=target)


def test_several_loops_and_ranges() -> None:
    check_forward(Forward(loops=TWO_LOOPS, mask="(i + j) % 2 == 0"))


def test_rows_that_see_nothing_are_zero() -> None:
    check_forward(Forward(mask="j < i - 5"))


def test_shared_key_heads() -> None:
    check_forward(Forward(key="b, h // 3, j, d", value="b, h // 3, j, e"), key_heads=1)


def test_dilated_rows() -> None:
    case = Forward(
        mask="abs(i - j) <= 3", query="b, h, i * 8 + r, d", key="b, h, j * 8 + r, d", value="b, h, j * 8 + r, e",
        out="b, h, i * 8 + r, e", grid="b < B, h < H, r < 8, t < (N + 511) // 512", bound="(N - r + 7) // 8",
        loops=((("0, (M - r + 7) // 8",), 32),),
    )  # fmt: skip
    check_forward(case, [(600, 590), (5, 7), (9, 1)])


def test_index_maps_that_are_not_affine() -> None:
    case = Forward(
        query="b, h, N - 1 - i, d", key="b, h, M - 1 - j, d", value="b, (h + 1) % H, (j + 3) % M, e",
        out="b, h, (i + 5) % N, e",
    )  # fmt: skip
    check_forward(case)
