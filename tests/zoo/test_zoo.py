"""Every system of examples/zoo: its form, its numbers forward and backward, and that it is fused."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

import attnc
from attnc.compiler.zoo import judge
from attnc.compiler.zoo.systems import BESIDE_PACKAGE, files, load

PATHS = files(BESIDE_PACKAGE)
every_system = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)


@every_system
def test_its_file_is_a_system(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") < 80
    assert re.search(r'^if __name__ == "__main__":\n    main\(\)\n\Z', text, re.MULTILINE)
    system = load(path)  # raises where the docstring or a name is missing
    assert set(system.inputs(small=True)) == set(system.inputs())
    for name in system.inputs():
        assert isinstance(system.function(name), attnc.CompiledAttention)


@every_system
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_it_is_right_and_fused(path: Path, backend: str) -> None:
    system = load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if system.eager else "error", attnc.FallbackWarning)
        found = judge.check(system, backend)
    wrong = [f"{c.function}: {c.tensor} errs by {c.error:.3g}, and may by {c.limit:.3g}" for c in found if not c.ok]
    assert not wrong
    if not system.eager:
        assert [f"{c.function}: {c.fallbacks}" for c in found if c.fallbacks] == []
        for name, args in system.inputs(small=True).items():
            page = attnc.compile(system.function(name).eager, backend=backend).lower(*args).explain()
            assert page.fused, (name, page.eager_ops)
            assert page.backward.compiled, (name, page.backward.reason)
