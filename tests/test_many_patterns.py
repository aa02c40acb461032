"""A hundred patterns in one process: each costs what the first one did.  Counts, never a clock."""

from __future__ import annotations

import functools
import gc
import importlib
import inspect
import itertools
import pkgutil
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attnc
from attnc.compiler import driver
from attnc.compiler.cache import DiskCache
from attnc.compiler.plan import Plan
from attnc.frontends.specialise import Specialisation

COUNT = 100
INPUTS = tuple(torch.randn(3, 1, 1, 12, 8))


def banded(reach: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A band of its own for each number: the mask is another one, and so are plan and kernel."""

    def band(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        i = torch.arange(q.shape[-2])[:, None]
        j = torch.arange(k.shape[-2])[None, :]
        return (q @ k.mT).masked_fill((i - j > reach) | (j > i), float("-inf")).softmax(-1) @ v

    return band


def compiled(reach: int, **options: Any) -> attnc.CompiledAttention:
    return attnc.compile(banded(reach), fallback="error", **options)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often what looks through caches was called."""
    found: Counter[str] = Counter()

    def count(cls: type, name: str) -> None:
        plain = getattr(cls, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return plain(*args, **kwargs)

        monkeypatch.setattr(cls, name, counted)

    for cls, names in ((DiskCache, ("load", "prune")), (Plan, ("guards_hold",)), (Specialisation, ("inputs",))):
        for name in names:
            count(cls, name)
    return found


def test_a_hundred_patterns_cost_the_same(
    counts: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    driver.forget()
    each: list[Counter[str]] = []
    objects: list[int] = []
    functions: list[attnc.CompiledAttention] = []
    for n in range(COUNT):
        counts.clear()
        functions.append(compiled(n, backend="reference"))
        torch.testing.assert_close(functions[-1](*INPUTS), functions[-1].eager(*INPUTS))
        each.append(Counter(counts))
        if n % 20 == 19:
            gc.collect()
            objects.append(len(gc.get_objects()))
    # the whole folder is looked at now and then only; all else is the same for each
    assert sum(c.pop("prune", 0) for c in each) <= 1 + COUNT // 64
    assert all(c == each[0] for c in each), each
    assert len(driver._memory) == COUNT
    assert sum(1 for p in tmp_path.rglob("*") if p.is_file()) == COUNT
    # each keeps as much alive as any other
    grown = [b - a for a, b in itertools.pairwise(objects)]
    assert max(grown) <= 1.2 * min(grown), grown
    # and a call finds its pattern however many others there are
    counts.clear()
    for fn in functions:
        fn(*INPUTS)
    assert counts["inputs"] <= COUNT
    assert not counts["guards_hold"]
    assert not counts["load"]


def test_kernels_go_with_their_functions() -> None:
    maps = Path("/proc/self/maps")

    def mapped() -> int:
        """Memory that holds code and comes from no file."""
        gc.collect()
        return sum(" r-xs " in line and "/dev/zero" in line for line in maps.read_text().splitlines())

    if not maps.exists():
        pytest.skip("needs /proc")
    before = mapped()
    functions = [compiled(n, backend="cpu", options={"cache": "off"}) for n in range(4)]
    for fn in functions:
        torch.testing.assert_close(fn(*INPUTS), fn.eager(*INPUTS), rtol=1e-4, atol=1e-4)
    assert mapped() > before
    del functions, fn
    driver.forget()
    assert mapped() == before


def test_programs_that_are_called_no_more_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many patterns a process sees, it keeps some of them."""
    monkeypatch.setattr(driver, "_CAPACITY", 4)
    driver.forget()
    plans: list[weakref.ref[Plan]] = []
    for n in range(12):
        fn = compiled(n, backend="reference", options={"cache": "off"})
        fn(*INPUTS)
        (newest,) = driver._memory[next(reversed(driver._memory))]
        plans.append(weakref.ref(newest))
    del fn, newest
    gc.collect()
    assert sum(plan() is not None for plan in plans) == len(driver._memory) == 4


@pytest.mark.parametrize("package", ["attnc.ir", "attnc.compiler.analysis", "attnc.backends.triton"])
def test_functions_of_expressions_remember_a_bounded_number(package: str) -> None:
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
        for name, value in vars(importlib.import_module(f"{package}.{found.name}")).items():
            if isinstance(value, functools._lru_cache_wrapper) and inspect.signature(value).parameters:
                assert value.cache_parameters()["maxsize"] is not None, f"{found.name}.{name}"
