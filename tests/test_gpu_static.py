"""The machine code of kernels compares with the record: a few here, the whole table by ``gpu_static.py --check``."""

from __future__ import annotations

import copy
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SUBSET: list[tuple[Any, ...]] = [
    ("causal", 64, "forward", "sm_90"),
    ("causal", 64, "backward", "sm_90"),
    ("relative_bias", 64, "forward", "sm_80"),
    ("window_2d", 64, "forward", "sm_100"),
    ("dilated", 64, "forward", "gfx942"),
    ("dense", 128, "backward", "sm_90", "f32"),  # spills, but not in its loops
]


KERNEL = b'''
"""Top."""
def kernel(q, size):  # comment
    """Inner."""
    a = load(q, "q must be") + size
    return a
'''


@pytest.fixture
def gpu_static(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent / "tests"))
    before = set(sys.modules)
    import gpu_static

    yield gpu_static
    for name in ("gpu_static", "patterns"):
        if name not in before:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("case", SUBSET, ids=lambda c: "-".join((c[0], *c[2:])))
def test_kernels_are_not_worse_than_recorded(case: tuple[Any, ...], gpu_static: Any) -> None:
    case = gpu_static.Case(*case)
    record = gpu_static.load()
    assert case.name in record["kernels"], "record it: python benchmarks/gpu_static.py"
    assert list(gpu_static.problems(case, gpu_static.measure(case), record)) == []


def test_nothing_in_the_record_is_wrong(gpu_static: Any) -> None:
    record = gpu_static.load()["kernels"]
    assert set(record) <= {case.name for case in gpu_static.plan()}
    wrong = {f"{c}: {name}": k["wrong"] for c, found in record.items() for name, k in found.items() if k["wrong"]}
    assert wrong == {}


CODE = {
    "registers": 200, "spilled_bytes": 0, "shared_bytes": 1024, "shared_limit": 2048, "matrix": 4,
    "matrix_name": "HGMMA",
    "loops": [{"instructions": 500, "matrix": 4, "on_chip": 10, "memory": 10, "special": 64, "spill": 0}], "wrong": [],
}  # fmt: skip


@pytest.mark.parametrize(
    "change, text",
    [
        ({"registers": 220}, "registers: 200 -> 220"),
        ({"registers": 204}, None),
        ({"registers": 150}, None),
        ({"spilled_bytes": 4}, "spilled bytes: 0 -> 4"),
        ({"matrix_name": "HMMA"}, "matrix instruction: HGMMA -> HMMA"),
        ({"loops": [{**CODE["loops"][0], "instructions": 530}]}, "instructions of main loops: 500 -> 530"),
        ({"loops": [{**CODE["loops"][0], "instructions": 510}]}, None),
        ({"loops": [{**CODE["loops"][0], "on_chip": 20}]}, "on_chip of main loops: 10 -> 20"),
        ({"wrong": ["3 spills in main loops"]}, "3 spills in main loops"),
    ],
)
def test_what_is_worse(change: dict[str, Any], text: str | None, gpu_static: Any) -> None:
    case = gpu_static.Case("causal", 64, "forward", "sm_90")
    record = {"triton": version("triton"), "kernels": {case.name: {"causal_kernel": CODE}}}
    now = {"causal_kernel": {**copy.deepcopy(CODE), **change}}
    expected = [f"{case.name}: causal_kernel: {text}"] if text else []
    assert list(gpu_static.problems(case, now, record)) == expected
    if not change.get("wrong"):  # another Triton makes other code
        assert list(gpu_static.problems(case, now, record | {"triton": "0"})) == []


def test_what_is_printed_as_it_was_is_not_compiled_again(gpu_static: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import attnc.compiler.machine_code

    case = gpu_static.Case("causal", 64, "forward", "sm_90")
    recorded = gpu_static.load()["kernels"][case.name]

    def compiled(lowered: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(attnc.compiler.machine_code, "machine_code", compiled)
    assert gpu_static.measure(case, recorded) == recorded
    with pytest.raises(AssertionError):
        gpu_static.measure(case, {name: kernel | {"source": "0"} for name, kernel in recorded.items()})


@pytest.mark.parametrize(
    ("before", "after", "alike"),
    [(b"# comment", b"# another", True), (b"Inner", b"Text", True), (b"a =", b"b =", False), (b"size", b"many", True),
     (b"+ size", b"- size", False), (b"q must", b"it must", False), (b"kernel", b"other", True)],
)  # fmt: skip
def test_the_hash_of_a_source(before: bytes, after: bytes, alike: bool, gpu_static: Any) -> None:
    assert (gpu_static.source_hash(KERNEL) == gpu_static.source_hash(KERNEL.replace(before, after))) == alike


def test_one_that_fails_is_recorded_and_is_a_problem(gpu_static: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(case: Any, known: Any) -> None:
        raise RuntimeError("no such\n instruction")

    monkeypatch.setattr(gpu_static, "measure", fail)
    case = gpu_static.Case("causal", 64, "forward", "sm_90")
    ((_, found),) = gpu_static.run([case], 1)
    assert found == {"error": "RuntimeError: no such instruction"}
    assert list(gpu_static.problems(case, found, {})) == [f"{case.name}: RuntimeError: no such instruction"]
