"""Rows of features that are no power of two wide: in two tiles, not in a padded one."""

import pytest
import torch

import attnc
from attnc.backends import get_backend
from attnc.backends.triton.widths import in_parts, parts
from attnc.ir.interpret import run_kernel
from attnc.ir.tile import DotOp, kernels_of, tile_type

from ...numerics import assert_gradients_match, assert_matches, gradients
from ..mlir_cpu.backward_kernels import KeyBackward
from .helpers import Case
from .test_backward import check, kernel_of


@pytest.mark.parametrize(
    "size, expected",
    [
        (1, (1,)), (5, (5,)), (24, (24,)), (40, (32, 8)), (48, (32, 16)), (64, (64,)), (72, (64, 8)), (80, (64, 16)),
        (96, (64, 32)), (100, (100,)), (112, (112,)), (144, (128, 16)), (192, (128, 64)), (256, (256,)),
    ],
)  # fmt: skip
def test_parts(size, expected):
    assert parts(size) == expected


def causal(q, k, v):
    live = torch.arange(q.shape[-2])[:, None] >= torch.arange(k.shape[-2])
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~live, float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize("width, value_width", [(80, 96), (72, 40)])
def test_numbers(width, value_width):
    torch.manual_seed(0)
    inputs = [torch.randn(1, 1, n, w) for n, w in ((67, width), (45, width), (45, value_width))]
    compiled = attnc.compile(causal, backend="triton", fallback="error")
    assert_matches(causal, compiled(*inputs), inputs)
    (found,) = gradients(compiled, inputs)
    assert_gradients_match(causal, found, inputs)


def test_programs_mean_the_same():
    """The divided program, which a dump shows, against the whole one."""
    case = KeyBackward(D=80, E=40, dt="f64", fused=False)
    whole = kernel_of(case)
    divided = in_parts(whole)
    assert divided.size_names == whole.size_names
    torch.manual_seed(0)
    shapes = (9, 80), (20, 80), (20, 40), (9, 40), (9,), (9,)
    inputs = [torch.randn(1, 1, *shape, dtype=torch.float64) for shape in shapes]
    results = []
    for kernel in (whole, divided):
        outputs = [torch.full((1, 1, 20, w), torch.nan, dtype=torch.float64) for w in (80, 40)]
        run_kernel(kernel, [*inputs, *outputs], {"B": 1, "H": 1, "N": 9, "M": 20})
        results.append(outputs)
    torch.testing.assert_close(*results)


def test_products_have_no_more_than_they_need():
    kernel = in_parts(Case(dtype="bf16", width=80, value_width=96).kernel())
    sides = [[n for a, n in (tile_type(op.lhs).shape | tile_type(op.rhs).shape).items() if a[0] in "de"]
             for op in kernel.body.walk() if isinstance(op, DotOp)]  # fmt: skip
    assert sides == [[64], [16], [64], [32]]
    text = get_backend("triton").compile(Case(dtype="bf16", width=80).kernel(), target="sm_90").stages["triton"]
    assert "16 features from 64 on" in text
    assert "k_rows_1.load([tl.cast(start, tl.int32), 64])" in text
    assert "128" not in text[: text.index("__main__")].replace("128 * ", "")


def test_sums_over_heads_stay_in_registers():
    case = KeyBackward(
        D=80, E=16, rows=32, step=32, key="b, 0, j, d", value="b, 0, j, e", add=" add", sequential=1,
        grid="b < B, t < (M + 31) // 32, h < H", fused=False,
    )  # fmt: skip
    text = get_backend("triton").compile(kernel_of(case), target="sm_90").stages["triton"]
    assert "dk_old" not in text
    check(case, [(33, 50)], key_heads=1)


def test_other_kernels_are_as_they_were():
    (kernel,) = kernels_of(Case().lowered()).values()
    assert in_parts(kernel) is kernel
