"""The order of tasks: the long ones first; and programs that stay and walk them."""

from dataclasses import asdict, fields, replace

import pytest
from xdsl.dialects.builtin import IntegerAttr, i64

from attnc.backends import get_backend
from attnc.backends.triton.config import candidates, choose
from attnc.backends.triton.targets import TARGETS
from attnc.backends.triton.tasks import Order, order_of
from attnc.ir.tile import kernels_of

from .helpers import Case, check

CAUSAL = Case(mask="j <= i", tiles="16x16", edit=lambda t: t.replace('["0, M"]', '["0, min(M, t * 16 + 16)"]'))
LATE = Case(mask="j >= i", tiles="16x16", edit=lambda t: t.replace('["0, M"]', '["min(M, t * 16), M"]'))
# the first rows see all keys, the others a window
GLOBAL = Case(
    mask="abs(i - j) <= 9 or i < 4",
    tiles="16x16",
    edit=lambda t: t.replace(
        '["0, M"]', '["where(t == 0, 0, max(t * 16 - 9, 0)), where(t == 0, M, min(M, t * 16 + 25))"]'
    ),
)  # fmt: skip
WINDOW = Case(
    mask="abs(i - j) <= 9",
    tiles="16x16",
    edit=lambda t: t.replace('["0, M"]', '["max(t * 16 - 9, 0), min(M, t * 16 + 25)"]'),
)
ORDERS = {"causal": (CAUSAL, Order("t", True, False)), "late": (LATE, Order("t", False, False)),
          "global": (GLOBAL, Order("t", False, True)), "window": (WINDOW, None), "dense": (Case(), None)}  # fmt: skip


def persistent(case: Case, programs: int) -> Case:
    """The same, with programs that stay."""

    class Staying(Case):
        def lowered(self):
            module = case.lowered()
            (kernel,) = kernels_of(module).values()
            kernel.attributes["persistent"] = IntegerAttr(programs, i64)
            return module

    return Staying(**{f.name: getattr(case, f.name) for f in fields(case)})


def text(case: Case) -> str:
    return get_backend("triton").compile(case.kernel()).stages["triton"]


@pytest.mark.parametrize("name", ORDERS)
def test_which_tasks_are_long(name):
    case, order = ORDERS[name]
    assert order_of(case.kernel()) == order
    assert ("long tasks first" in text(case)) == (order is not None)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("heads", [1, 3])
def test_every_task_runs(name, heads, monkeypatch):
    case = ORDERS[name][0]
    inputs = case.inputs(h=heads, n=67, m=67)
    check(case, inputs)
    # a cache that holds two heads: sections of two, the last one of the odd head
    size = sum(x.numel() * x.element_size() for x in inputs[1:]) // (2 * heads)
    monkeypatch.setitem(TARGETS, "sm_90", replace(TARGETS["sm_90"], cache=4 * size + 2))
    check(case, inputs)


def test_long_tasks_come_first():
    assert "t = t_count - 1 - place // width" in text(CAUSAL)
    assert "t = place // width" in text(LATE)
    assert "t = pid // heads" in text(GLOBAL)


@pytest.mark.parametrize("name", ["causal", "dense", "global"])
def test_programs_that_stay(name):
    case = ORDERS[name][0]
    for programs in (1, 2):
        stays = persistent(case, programs)
        assert "for pid in range(tl.program_id(0), tasks, tl.num_programs(0)):" in text(stays)
        check(stays, case.inputs(b=1, h=3, n=67, m=67))


def test_candidates():
    kernel = replace(CAUSAL, dtype="bf16").kernel()
    for target in TARGETS.values():
        found = candidates(kernel, target)
        assert found[0] == choose(kernel, target)
        assert len(set(found)) == len(found) > 3
        for config in found:
            asked = kernel.clone()
            for name, value in asdict(config).items():
                if name != "target":
                    asked.attributes[name] = IntegerAttr(int(value), i64)
            assert choose(asked, target) == config
    options = candidates(kernel, TARGETS["sm_100"])
    assert {c.descriptors for c in options} == {c.warp_specialize for c in options} == {True, False}
    assert {c.persistent for c in options} == {0, 1, 2}
    assert not any(c.descriptors or c.warp_specialize for c in candidates(kernel, TARGETS["gfx942"]))
