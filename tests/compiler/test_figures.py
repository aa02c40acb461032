"""Figures of a machine: kept, found again, and part of what plans are known by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import attnc
from attnc.compiler import calibration, driver, figures
from attnc.compiler.analysis.cpu_time import cpu_time
from attnc.compiler.analysis.devices import DEVICES, UnknownTargetError, device
from attnc.compiler.analysis.space import Choice
from attnc.compiler.analysis.work import Work
from attnc.compiler.figures import Figures
from attnc.compiler.lowering import Request, load_backend
from attnc.ir.attn import Source
from attnc.ir.attributes import DimsAttr
from attnc.ir.expr import parse

from ..patterns import BY_NAME

HOST = load_backend("cpu").pipeline_options("f32", torch.device("cpu"))["target"]


def taken(**changes: float) -> Figures:
    on = DEVICES[HOST]
    found = Figures(on.peak, 0.8, on.near, on.far, on.bandwidth, on.exponential, on.coarse, on.load, on.step, on.task,
                    on.call)  # fmt: skip
    return replace(found, **changes)


def request(folder: Path, **options: str) -> Request:
    return Request.of("cpu", "f32", torch.device("cpu"), {"cache_dir": str(folder), **options})


def test_texts_are_read_back() -> None:
    assert Figures.read(taken().text()) == taken()
    assert taken().digest == taken().digest != taken(step=1e-6).digest
    for text in ("", "[]", "{}", '{"format": 1}', taken().text().replace('"format": 1', '"format": 0')):
        assert Figures.read(text) is None


def test_nothing_is_measured_by_default(tmp_path: Path) -> None:
    assert figures.load(tmp_path) is None
    assert figures.measured_target(HOST, tmp_path) == HOST
    assert request(tmp_path).pipeline_options()["target"] == HOST
    assert figures.load(None) is None  # of the cache that tests use


def test_figures_are_kept_and_used(tmp_path: Path) -> None:
    path = figures.save(taken(step=1e-6), tmp_path)
    assert path is not None
    assert figures.load(tmp_path) == taken(step=1e-6)
    name = request(tmp_path).pipeline_options()["target"]
    assert name == f"{HOST}@{taken(step=1e-6).digest}"
    assert device(name).step == 1e-6
    assert device(name).lanes == DEVICES[HOST].lanes
    path.write_bytes(path.read_bytes()[:-2])
    assert figures.load(tmp_path) is None  # damaged: as if there were none


def test_a_target_by_name_has_its_defaults(tmp_path: Path) -> None:
    figures.save(taken(), tmp_path)
    assert request(tmp_path, target="cpu-avx2").pipeline_options()["target"] == "cpu-avx2"


def test_plans_are_known_by_figures(tmp_path: Path) -> None:
    digests = [driver._digest("program", request(tmp_path))]
    for step in (1e-8, 1e-6):
        figures.save(taken(step=step), tmp_path)
        digests += [driver._digest("program", request(tmp_path)) for _ in range(2)]
    assert digests[1] == digests[2]
    assert digests[3] == digests[4]
    assert len(set(digests)) == 3


def test_the_same_figures_make_the_same_code(tmp_path: Path) -> None:
    def lowered() -> attnc.Lowered:
        q, k, v = (torch.randn(1, 2, 40, 16) for _ in range(3))
        return attnc.compile(BY_NAME["causal_window"].fn, backend="cpu", options={"cache_dir": str(tmp_path)}).lower(
            q, k, v
        )

    plain = lowered().ir("tile")
    figures.save(taken(task=1e-3), tmp_path)  # the fewer tasks, the better
    texts = [lowered().ir("tile") for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0] != plain
    assert "@" in str(lowered().explain())


def test_figures_of_another_machine() -> None:
    with pytest.raises(UnknownTargetError, match=r"measured on another machine.*use 'cpu-avx2'"):
        device("cpu-avx2@00000000")
    with pytest.raises(UnknownTargetError, match="there is no target"):
        device("tpu@00000000")


@pytest.mark.parametrize("name", ["call", "exponential", "load", "step", "task"])
def test_a_price_is_what_the_model_lacks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine that the model describes exactly, the figure is found again."""
    plain = DEVICES["cpu-avx512"]
    truth = replace(plain, **{name: 1.7 * getattr(plain, name)})
    source = Source("j", parse("M"), (), (), parse("True"))

    def run(sizes: tuple[int, int, int], choice: str, dtype: str) -> tuple[float, Work, dict[str, int]]:
        rows, keys, width = sizes
        work = Work(DimsAttr.read("i < N"), (source,), width, width, dtype)
        named = {"N": rows, "M": keys}
        return truth.call + cpu_time(work, truth, Choice.read(choice), named)[0].total, work, named

    monkeypatch.setattr(calibration, "_run", run)
    taking = calibration._Taking(plain)
    taking._price(name, (512, 96, 8), "rows=16,keys=24", "f32")
    assert getattr(taking.on, name) == pytest.approx(getattr(truth, name))
