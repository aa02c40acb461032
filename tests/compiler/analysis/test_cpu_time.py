"""The time model of CPUs: what costs more, and what does not."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from attnc.compiler.analysis.cost import predicted
from attnc.compiler.analysis.cpu_time import Parts, cpu_time, vector_cycles
from attnc.compiler.analysis.devices import Device, device
from attnc.compiler.analysis.space import Choice, candidates
from attnc.compiler.analysis.work import Work
from attnc.ir.attn import Source
from attnc.ir.attributes import DimsAttr
from attnc.ir.expr import Lambda, parse

AMX, PLAIN = device("cpu-avx512-amx"), device("cpu-avx512")
SIZES = {"B": 1, "H": 4, "N": 1024}
ALL = [(on, dtype, gradient) for on in (PLAIN, AMX) for dtype in ("f32", "bf16", "f64") for gradient in (False, True)]


def work(mask: str = "True", width: int = 64, dtype: str = "f32", score: str = "dot") -> Work:
    source = Source("j", parse("N"), (), (), parse(mask), Lambda(("dot",), parse(score)))
    return Work(DimsAttr.read("b < B, h < H, i < N"), (source,), width, width, dtype)


def time(w: Work, on: Device = PLAIN, choice: Choice = Choice(64, 96), gradient: bool = False, **sizes: int) -> Parts:
    return cpu_time(w, on, choice, SIZES | sizes, gradient)[0]


@pytest.mark.parametrize("on, dtype, gradient", ALL)
def test_more_work_takes_longer(on: Device, dtype: str, gradient: bool) -> None:
    masks = ["abs(i - j) <= 16", "abs(i - j) <= 100", "j <= i", "True"]
    for choice in candidates(work(dtype=dtype), on, gradient):
        times = [time(work(m, dtype=dtype), on, choice, gradient) for m in masks]
        assert all(getattr(t, f.name) >= 0 for t in times for f in fields(Parts))
        assert [t.total for t in times] == sorted(t.total for t in times)
        assert time(work(dtype=dtype), on, choice, gradient, N=1500).total > times[-1].total
        assert time(work(width=128, dtype=dtype), on, choice, gradient).total > times[-1].total
        assert time(work(dtype=dtype), on, choice, gradient, H=8).total == pytest.approx(2 * times[-1].total)


def test_masks_cost_where_they_are_evaluated() -> None:
    whole, causal = time(work()), time(work("j <= i"))
    assert whole.masks == 0
    assert 0 < causal.masks < causal.products
    assert time(work(score="dot + bias[h, i, j]")).masks > time(work(score="dot + slope[h] * (i - j)")).masks > 0


def test_what_depends_on_the_key_alone_is_no_vector() -> None:
    def cycles(text: str) -> float:
        return vector_cycles(parse(text), "i", "j")

    assert cycles("gate[j] + j * 2") == 0
    assert cycles("j <= i") < cycles("j <= i and (i - j) % 8 == 0")
    assert cycles("table[h, i - j]") > cycles("bias[i]") == 0


def test_matrix_registers_are_worth_having() -> None:
    narrow = work(dtype="bf16")
    assert time(narrow, AMX, Choice(256, 256)).total < time(narrow, PLAIN).total / 2
    assert time(work(), AMX).total == time(work(), PLAIN).total


def test_strips_of_a_tall_tile_walk_their_own_keys() -> None:
    """A tile of 256 rows over a narrow band has the products of low tiles, but for whole blocks."""
    band = work("abs(i - j) <= 16", dtype="bf16")
    tall, low = (time(band, AMX, Choice(rows, 32)).products for rows in (256, 32))
    assert tall < low * 1.5


def test_every_figure_changes_a_prediction() -> None:
    def seconds(on: Device, dtype: str) -> float:
        return predicted(work(dtype=dtype), on, Choice(64, 96), {**SIZES, "N": 1 << 15}, gradient=True)

    slower = {"step": 2.0, "task": 2.0, "load": 2.0, "exponential": 2.0, "call": 2.0}
    for name, factor in slower.items():
        changed = replace(PLAIN, **{name: getattr(PLAIN, name) * factor})
        assert seconds(changed, "f32") > seconds(PLAIN, "f32"), name
    assert seconds(replace(PLAIN, far=PLAIN.far / 100), "f32") > seconds(PLAIN, "f32")
    assert seconds(replace(AMX, coarse=AMX.coarse * 2), "bf16") > seconds(AMX, "bf16")
    faster = replace(PLAIN, peak={name: 2 * peak for name, peak in PLAIN.peak.items()})
    assert seconds(faster, "f32") < seconds(PLAIN, "f32")


def test_tasks_come_in_rounds() -> None:
    def seconds(threads: int) -> float:
        return predicted(work(), PLAIN, Choice(64, 96), {"B": 1, "H": 3, "N": 64}, threads=threads) - PLAIN.call

    assert seconds(3) == pytest.approx(seconds(1) / 3)
    assert seconds(2) == pytest.approx(seconds(1) * 2 / 3)
    assert seconds(8) == pytest.approx(seconds(3))


def test_no_rows_take_no_time() -> None:
    assert predicted(work(), PLAIN, Choice(64, 96), {"B": 1, "H": 3, "N": 0}) == PLAIN.call
