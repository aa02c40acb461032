"""Gradient kernels, run by Triton's interpreter, against the tile program's meaning; and what they look like."""

from __future__ import annotations

import pytest
import torch

from attnc.backends import get_backend
from attnc.backends.triton.collisions import injective
from attnc.ir.expr import parse_map
from attnc.ir.interpret import run_kernel
from attnc.ir.text import parse_module
from attnc.ir.tile import KernelOp, kernels_of

from ..mlir_cpu.backward_kernels import Backward, KeyBackward, QueryBackward
from .helpers import DTYPES

# distance from the interpreter, which sums in another order, relative to the largest element
TOLERANCE = {"f64": 1e-14, "f32": 3e-6, "bf16": 2e-2, "f16": 3e-3}
SIZES = [(65, 130), (1, 1), (7, 13), (64, 63), (5, 0), (0, 5)]
SHARED = "b < B, t < (M + {0} - 1) // {0}, h < H"  # heads in order: all have the same keys
TABLE = "h < H, b < B, t < (N + {0} - 1) // {0}"  # batch and tiles in order: all have the same table


def kernel_of(case: Backward) -> KernelOp:
    (kernel,) = kernels_of(parse_module(case.text)).values()
    return kernel


def source(case: Backward) -> str:
    return get_backend("triton").compile(kernel_of(case), target="sm_90").stages["triton"]


def check(case: Backward, sizes=SIZES, key_heads: int = 3, strided: bool = False, extra=lambda n, m: ()) -> None:
    """Compare with the interpreter at every (N, M); outputs that must be written whole start as NaN."""
    kernel, engine = kernel_of(case), get_backend("triton")
    launch = engine.load(engine.compile(kernel))
    dtype, wide = DTYPES[case.dt], DTYPES[case.accumulator]
    torch.manual_seed(0)
    for n, m in sizes:

        def random(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            if strided:
                shape = (shape[0], shape[2], shape[1], 2 * shape[3])
                return torch.randn(shape).to(dtype).transpose(1, 2)[..., ::2]
            return torch.randn(shape).to(dtype)

        q, do = (random(2, 3, n, width) for width in (case.D, case.E))
        k, v = (random(2, key_heads, m, width) for width in (case.D, case.E))
        lse = torch.randn(2, 3, n, dtype=wide) + 3.0
        lse[..., n // 2 : n // 2 + 1] = -torch.inf  # a row that saw no key
        inputs = [q, k, v, do, lse, torch.randn(2, 3, n, dtype=wide)]
        like = [("dk", k, dtype), ("dv", v, dtype)] if isinstance(case, KeyBackward) else []
        like = [*([("dq", q, wide)] if not like or case.fused else []), *like]
        outputs = [torch.full_like(x, torch.nan, dtype=t) for _, x, t in like] + list(extra(n, m))
        for index in kernel.zeroed:
            outputs[index - len(inputs)].zero_()
        expected = [x.clone() for x in outputs]
        values = {"B": 2, "H": 3, "N": n, "M": m}
        launch([*inputs, *outputs], values)
        run_kernel(kernel, [*inputs, *expected], values)
        for x, y in zip(outputs, expected, strict=True):
            scale = y.abs().max().clamp(min=1.0) if y.numel() else 1.0
            torch.testing.assert_close(x / scale, y / scale, rtol=0, atol=TOLERANCE[case.dt])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("mask", ["True", "j <= i", "abs(i - j) <= 9", "j > i + 40"])
def test_keys(mask, fused):
    check(KeyBackward(mask=mask, fused=fused), SIZES if mask == "j <= i" else SIZES[2:])


@pytest.mark.parametrize("mask", ["True", "j <= i", "j > i + 40"])
def test_queries(mask):
    check(QueryBackward(mask=mask), SIZES if mask == "j <= i" else SIZES[2:])


@pytest.mark.parametrize("dt", ["f64", "bf16", "f16"])
def test_types(dt):
    check(KeyBackward(dt=dt), [(33, 70)])
    check(QueryBackward(dt=dt), [(33, 70)])


@pytest.mark.parametrize("rows, step", [(16, 32), (24, 40), (64, 16)])
@pytest.mark.parametrize("width, value_width", [(5, 80), (80, 5)])
def test_widths_and_tiles(width, value_width, rows, step):
    check(KeyBackward(D=width, E=value_width, rows=rows, step=step), [(33, 50)])
    check(QueryBackward(D=width, E=value_width, rows=rows, step=step), [(33, 50)])


def test_strides():
    check(KeyBackward(), [(33, 50)], strided=True)


def test_several_ranges():
    ranges = ("0, min(N, 16)", "16, min(N, 40)", "N, N - 5", "40, N")
    check(KeyBackward(rows=16, step=16, ranges=ranges), [(70, 33), (20, 33)])


def shared(fused: bool, dt: str = "f32") -> KeyBackward:
    return KeyBackward(
        dt=dt, rows=32, step=32, key="b, 0, j, d", value="b, 0, j, e", grid=SHARED.format(32),
        sequential=2 if fused else 1, fused=fused, add=" add",
    )  # fmt: skip


@pytest.mark.parametrize("dt", ["f32", "bf16"])
@pytest.mark.parametrize("fused", [False, True])
def test_keys_that_heads_share(fused, dt):
    check(shared(fused, dt), [(65, 50), (1, 1)], key_heads=1)


def test_sums_over_steps_stay_in_registers():
    text = source(shared(fused=False))
    before, steps = text[: text.index("for h_step")], text[text.index("for h_step") :]
    assert "dk0 = tl.full" in before
    assert "K = tl.load" in before  # the same keys at every step
    assert "dk_old" not in text
    assert "debug_barrier" not in text
    assert steps.index("\n    tl.store(dk_base") > steps.index("dk0 = tl.dot")


def test_steps_that_load_what_others_stored_have_a_barrier():
    text = source(shared(fused=True))
    assert text.index("dq_old = tl.load") < text.index("tl.debug_barrier") < text.rindex("tl.store(")
    assert text.count("tl.debug_barrier") == 1  # steps of the loop add to rows of their own


def test_products_have_the_rows_of_the_kernel():
    """No tile of pairs is transposed on its way from one product to the next."""
    text = source(KeyBackward(fused=False))
    assert "tl.trans(p)" not in text
    assert "tl.trans(ds)" not in text


TABLES = {
    "plain": ("h, i, j", lambda n, m: (3, n, m)),
    "diagonal": ("h, i - j + M", lambda n, m: (3, n + m)),
    "clamped": ("h, min(max(i - j, -4), 4) + 4", lambda n, m: (3, 9)),
    "outside": ("h, i - j + 9", lambda n, m: (3, 19)),  # where the mask excludes the pair
    "twice": ("h, 2 * j + M - 2 * i + N", lambda n, m: (3, 2 * n + 3 * m)),
    "coarse": ("h, i // 6 - j // 6 + M", lambda n, m: (3, n + m)),
    "column": ("h, j", lambda n, m: (3, m)),
    "row": ("h, i", lambda n, m: (3, n)),
    "one": ("h", lambda n, m: (3,)),
}


# only diagonals, which are turned along the longer side, see which one it is
TILES = [(name, 16, 32) for name in TABLES] + [
    (n, 32, 16) for n in TABLES if n not in ("plain", "column", "row", "one")
]


@pytest.mark.parametrize("name, rows, step", TILES)
def test_tables(name, rows, step):
    index, shape = TABLES[name]
    rank = index.count(",") + 1 if "(" not in index else 2
    case = QueryBackward(
        rows=rows, step=step, mask="abs(i - j) <= 9", grid=TABLE.format(rows), sequential=2,
        outputs=(f"%db: !tile.mem<{rank}, f32>",),
        extra=f'\n    tile.store %ds, %db at "{index}" add : {{ij}} -> !tile.mem<{rank}, f32>',
    )  # fmt: skip
    check(case, [(33, 50), (1, 5)], extra=lambda n, m: [torch.zeros(shape(n, m))])
    assert ("tl.gather" in source(case)) == (name in ("diagonal", "clamped", "outside", "twice"))
    assert ("while" in source(case)) == (name in ("clamped", "coarse"))
    assert "atomic" not in source(case)


@pytest.mark.parametrize(
    "index, expected",
    [
        ("b, i, j", True), ("i * 8 + r, j", True), ("N - 1 - i, j + i", True), ("i - j", False), ("i, j // 2", False),
        ("i * N, j", False), ("x[i], j", False), ("i * i, j", False), ("i", False),
    ],
)  # fmt: skip
def test_injective(index, expected):
    assert injective(parse_map(index), ["i", "j"]) == expected
