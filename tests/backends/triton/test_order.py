"""The order of a step where products run beside other instructions."""

import pytest

from attnc.backends import get_backend

from ..mlir_cpu.backward_kernels import KeyBackward
from .helpers import Case
from .test_backward import kernel_of


def step(kernel, target):
    text = get_backend("triton").compile(kernel, target=target).stages["triton"]
    lines = [line.strip() for line in text[text.index("    for start") : text.index("# the rest")].splitlines()]
    return [line.partition(" = ")[0] for line in lines if " = " in line]


@pytest.mark.parametrize("target", ["sm_90", "sm_80", "gfx942"])
def test_sums_of_rows_run_beside_the_last_product(target):
    names = step(Case(dtype="bf16").kernel(), target)
    assert (names.index("acc") < names.index("total")) == (target == "sm_90")
    assert names.index("dot") < names.index("p") < names.index("acc")


def test_backwards_the_products_that_need_no_other_come_first():
    kernel = kernel_of(KeyBackward(dt="bf16", fused=False))
    names = step(kernel, "sm_90")
    products = [n for n in names if n in ("s", "dot", "dp")]
    assert len(products) == 2
    assert max(names.index(n) for n in products) < names.index("p")


@pytest.mark.parametrize(
    "case",
    [
        Case(),
        Case(dtype="bf16", score="lambda dot: dot * 0.1 + bias[h, i, j]", captures={"bias": ("H, N, M", "bf16")}),
    ],
    ids=["float32", "a bias"],
)
def test_others_stay_as_they_are(case):
    names = step(case.kernel(), "sm_90")
    assert names.index("total") < names.index("acc")
