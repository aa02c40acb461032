"""The order of a step where products run beside other instructions."""

import pytest

from attnc.backends import get_backend

from .helpers import Case
from .test_ahead import gradient_kernels


def step(kernel, target):
    text = get_backend("triton").compile(kernel, target=target).stages["triton"]
    loop = text.partition("    for start")[2].partition("# the rest")[0].partition("tl.store(")[0]
    lines = [line.strip() for line in loop.splitlines()]
    return [line.partition(" = ")[0] for line in lines if " = " in line]


@pytest.mark.parametrize("target", ["sm_90", "sm_80", "gfx942"])
def test_sums_of_rows_run_beside_the_last_product(target):
    names = step(Case(dtype="bf16").kernel(), target)
    assert (names.index("acc") < names.index("total")) == (target == "sm_90")
    assert names.index("dot") < names.index("p") < names.index("acc")


def test_backwards_the_products_that_need_no_other_come_first():
    kernel = gradient_kernels("dense", "sm_90")["f_key0"]
    order = ["dot", "dp", "p", "dv_1", "ds", "dk_1"]
    assert [n for n in step(kernel, "sm_90") if n in order] == order
    assert [n for n in step(kernel, "sm_80") if n in order] == ["dot", "p", "dp", "ds", "dv_1", "dk_1"]


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
