"""Six whole texts, kept as documentation: read them to see what attnc makes of a function.

``pytest tests/test_goldens.py --update-golden`` writes them anew; read the difference before you commit it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import attnc

from .patterns import BY_NAME

FOLDER = Path(__file__).parent / "goldens"
GOLDENS = [
    ("dilated", "capture", None),
    ("dilated", "attn", None),
    ("dilated", "tile", "cpu-avx512"),
    ("hierarchical", "attn", None),
    ("causal", "tile", "sm_90"),
    ("causal", "triton", "sm_90"),
]


@pytest.mark.parametrize(("name", "stage", "target"), GOLDENS, ids=str)
def test_golden(name, stage, target, request):
    pattern = BY_NAME[name]
    lowered = attnc.compile(pattern.fn, backend="cpu").lower(*pattern.inputs(1, 2, 64, 64, 64))
    text = (lowered.on(target) if target else lowered).ir(stage)
    text = re.sub(r"patterns\.py:\d+", "patterns.py:LINE", text)  # not every edit of the table is a new golden
    path = FOLDER / f"{name}.{stage}.txt"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"there is no {path.name}; write it with --update-golden"
    assert text == path.read_text(), f"{path.name} differs; see --update-golden"
