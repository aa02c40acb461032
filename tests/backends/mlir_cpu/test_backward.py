"""Kernels whose rows are keys, sums over rows that are added to memory, grid dimensions that run in order."""

from __future__ import annotations

import pytest
import torch

from attnc.backends.mlir_cpu.row_dot import upright
from attnc.backends.mlir_cpu.target import cpu_features
from attnc.backends.mlir_cpu.tiles import Tiles

from .backward_kernels import KeyBackward, NarrowBackward, QueryBackward, check_backward
from .kernels import compiled, parse_kernel


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dt", ["f32", "f64", "bf16", "f16"])
@pytest.mark.parametrize("layout", ["bhnd", "bnhd", "bhdn"])
def test_dtypes_and_strides(dt: str, layout: str, fused: bool) -> None:
    check_backward(KeyBackward(D=20, E=33, dt=dt, fused=fused), layout=layout)


@pytest.mark.parametrize("dt", ["f32", "bf16"])
def test_query_kernel(dt: str) -> None:
    check_backward(QueryBackward(D=20, E=33, dt=dt))


@pytest.mark.parametrize(("d", "e"), [(1, 1), (5, 3), (80, 64), (6, 100)])
@pytest.mark.parametrize("dt", ["f32", "bf16"])
def test_head_widths(d: int, e: int, dt: str) -> None:
    check_backward(KeyBackward(D=d, E=e, dt=dt))


@pytest.mark.parametrize("length", [(63, 64), (64, 65), (65, 63), (127, 3), (129, 257), (1, 300), (64, 1), (64, 64)])
def test_lengths(length: tuple[int, int]) -> None:
    check_backward(KeyBackward(), [length])


@pytest.mark.parametrize(("rows", "step"), [(16, 64), (24, 10), (128, 32), (64, 96)])
def test_tiles(rows: int, step: int) -> None:
    check_backward(KeyBackward(rows=rows, step=step))


@pytest.mark.parametrize("target", ["avx2", "generic"])
@pytest.mark.parametrize("dt", ["f32", "f64", "bf16"])
def test_vector_widths(target: str, dt: str) -> None:
    check_backward(KeyBackward(D=20, E=33, dt=dt), target=target)


@pytest.mark.parametrize("layout", ["bhnd", "bhdn"])
@pytest.mark.parametrize("dt", ["f32", "f64", "bf16", "f16"])
@pytest.mark.parametrize("rows", [3, 25, 49, 169])
def test_rows_that_leave_lanes_empty(rows: int, dt: str, layout: str) -> None:
    """Their number is known: sums have features in the lanes where these are whole vectors."""
    case = NarrowBackward if dt == "bf16" else KeyBackward
    check_backward(case(D=32, E=16, dt=dt, bound=str(rows)), [(49, rows), (130, rows), (1, rows)], layout=layout)


@pytest.mark.parametrize("target", ["avx2", "generic"])
def test_rows_that_leave_lanes_empty_elsewhere(target: str) -> None:
    check_backward(KeyBackward(D=32, E=20, bound="49", add=" add"), [(49, 49)], target=target)


@pytest.mark.parametrize(("e", "found"), [(16, ["dk", "dv"]), (20, ["dk"])])
def test_upright(e: int, found: list[str]) -> None:
    window, any_number = (parse_kernel(KeyBackward(D=32, E=e, bound=n).text) for n in ("49", ""))
    assert sorted({(v.name_hint or "")[:2] for v in upright(window, 16, Tiles())}) == found
    assert not upright(any_number, 16, Tiles())


@pytest.mark.skipif("avx512_bf16" not in cpu_features(), reason="needs the instruction")
@pytest.mark.parametrize("layout", ["bhnd", "bhdn"])
@pytest.mark.parametrize(("d", "e"), [(64, 32), (6, 34), (5, 2)])
def test_pairs_of_bf16(d: int, e: int, layout: str) -> None:
    for case in (KeyBackward(D=d, E=e, dt="bf16"), QueryBackward(D=d, E=e, dt="bf16")):
        check_backward(case, [(65, 130), (1, 1)], layout=layout, target="avx512-bf16")


def test_several_ranges() -> None:
    check_backward(KeyBackward(ranges=("0, N // 2", "N // 2, N"), mask="(i + j) % 2 == 0"))


def test_rows_in_order() -> None:
    """Query heads that share keys: one task goes through them, and the keys' gradients add up."""
    case = KeyBackward(
        key="b, h, j, d", value="b, h, j, e", query="b, h * 2 + g, i, d", out="b, h * 2 + g, i, e",
        lse="b, h * 2 + g, i", grid="b < B, h < H // 2, g < 2, t < (M + 63) // 64", sequential=2, add=" add",
    )  # fmt: skip
    check_backward(case, heads=4, key_heads=2)


def test_all_in_one_task() -> None:
    check_backward(KeyBackward(key="0, 0, j, d", value="0, 0, j, e", sequential=3, add=" add"), key_heads=1)


def test_dilated_rows() -> None:
    case = KeyBackward(
        mask="abs(i - j) <= 3", query="b, h, i * 8 + r, d", key="b, h, j * 8 + r, d", value="b, h, j * 8 + r, e",
        out="b, h, i * 8 + r, e", lse="b, h, i * 8 + r", grid="b < B, h < H, r < 8, t < (M + 511) // 512",
        bound="(M - r + 7) // 8", ranges=("0, (N - r + 7) // 8",),
    )  # fmt: skip
    check_backward(case, [(600, 590), (5, 7), (9, 1)])


def test_index_maps_that_are_not_affine() -> None:
    case = KeyBackward(query="b, h, (i + 5) % N, d", key="b, h, M - 1 - j, d", value="b, (h + 1) % H, (j + 3) % M, e")
    check_backward(case, [(65, 130), (7, 13)])


# index of one pair's gradient, its tensor, grid dimensions in order (others must not write the same element)
PAIRS = {
    "dense": (4, "b, h, i, j", 0, lambda n, m: torch.zeros(2, 3, n, m)),
    "transposed": (4, "b, h, i, j", 0, lambda n, m: torch.zeros(2, 3, m, n).mT),
    "shared by the batch": (3, "h, i, j", 3, lambda n, m: torch.zeros(3, n, m)),
    "relative": (2, "h, i - j + M", 3, lambda n, m: torch.zeros(3, n + m + 1)),
    "bucketed": (2, "h, (i - j + M) // 4", 3, lambda n, m: torch.zeros(3, n + m + 1)),
    "one number": (2, "0, 0", 3, lambda n, m: torch.zeros(1, 1, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_gradients_of_captured_tensors(name: str) -> None:
    rank, index, sequential, make = PAIRS[name]
    mem = f"!tile.mem<{rank}, {'f64' if name == 'one number' else 'f32'}>"
    extra = f'\n    tile.store %ds, %x at "{index}" add : {{ij}} -> {mem}'
    case = QueryBackward(sequential=sequential, outputs=(f"%x: {mem}",), extra=extra)
    check_backward(case, extra=lambda n, m: [make(n, m)])


def test_pairs_without_an_element_are_skipped() -> None:
    """A mask may leave only pairs whose index the tensor has."""
    case = QueryBackward(
        sequential=3, outputs=("%x: !tile.mem<1, f32>",), mask="abs(i - j) < 3",
        extra='\n    tile.store %ds, %x at "i - j + 2" add : {ij} -> !tile.mem<1, f32>',
    )  # fmt: skip
    kernel, launch = compiled(case.text)
    n = 70
    q, k, v, do = (torch.randn(1, 1, n, 16) for _ in range(4))
    lse, delta, dq, x = torch.zeros(1, 1, n), torch.zeros(1, 1, n), torch.zeros(1, 1, n, 16), torch.zeros(5)
    launch([q, k, v, do, lse, delta, dq, x], {"B": 1, "H": 1, "N": n, "M": n})
    ds = (torch.exp(q @ k.mT * 0.25) * (do @ v.mT) * 0.25)[0, 0]
    torch.testing.assert_close(x, torch.stack([ds.diagonal(2 - n).sum() for n in range(5)]))


@pytest.mark.parametrize("kind", ["sum", "max"])
@pytest.mark.parametrize("rows", [64, 128])
def test_reductions_over_rows(kind: str, rows: int) -> None:
    """Of key rows, added to memory by query, and used in a map over pairs."""
    extra = f"""
    %r = tile.reduce "{kind}" %ds : {{ij}} -> {{i}}
    %r2 = tile.map "lambda r: max(r, -5.0) + 1.0" (%r) : ({{i}}) -> {{i}}
    tile.store %r2, %x at "b, h, i" add : {{i}} -> {{stat}}
    %y0 = tile.map "lambda ds, r: ds * r" (%ds, %r2) : ({{ij}}, {{i}}) -> {{ij}}
    tile.store %y0, %y at "b, h, i, j" add : {{ij}} -> {{sum}}"""
    case = KeyBackward(
        rows=rows, mask="i <= j", extra=extra, outputs=("%x: !tile.mem<3, f32>", "%y: !tile.mem<4, f32>")
    )
    check_backward(case, extra=lambda n, m: [torch.zeros(2, 3, n), torch.zeros(2, 3, n, m)])


def test_row_statistics_of_pairs() -> None:
    """A sum over keys of what a captured tensor gets, one number for each query."""
    extra = """
    %r = tile.reduce "sum" %ds : {ij} -> {i}
    tile.store %r, %x at "b, h, i" add : {i} -> {stat}"""
    case = QueryBackward(extra=extra, outputs=("%x: !tile.mem<3, f32>",))
    check_backward(case, extra=lambda n, m: [torch.zeros(2, 3, n)])


def test_same_bits_whatever_the_threads() -> None:
    _, launch = compiled(KeyBackward().text)
    inputs = [torch.randn(2, 3, 200, 16) for _ in range(4)]
    inputs += [torch.randn(2, 3, 200) for _ in range(2)]
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            grads = [torch.zeros(2, 3, 200, 16) for _ in range(3)]
            launch([*inputs, *grads], {"B": 2, "H": 3, "N": 200, "M": 200})
            results.append(torch.stack(grads))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
