"""Patches and boxes: each live pair of tokens is in one patch and its box once, and boxes lie within the image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from attnc.compiler.analysis.numeric import array_value
from attnc.compiler.passes.patches import NAMES, SHAPES, patches
from attnc.ir.attributes import Dim
from attnc.ir.expr import evaluate, parse


def pushed(at: str, key: str, size: str) -> str:
    """A window of 3 that borders push inwards."""
    first = f"min(max({at} - 1, 0), {size} - 3)"
    return f"{first} <= {key} and {key} <= {first} + 2"


SQUARE = f"{pushed('i // 24', 'j // 24', 'Z')} and {pushed('i % 24', 'j % 24', '24')}"
CAUSAL = "j // 128 <= i // 128 and i // 128 <= j // 128 + 1"
VIDEO = f"{CAUSAL} and {pushed('i // 16 % 8', 'j // 16 % 8', '8')} and {pushed('i % 16', 'j % 16', '16')}"


@pytest.mark.parametrize(
    ("mask", "inner", "outer", "forms"),
    [
        (SQUARE, (24,), 9, 5),
        (VIDEO, (8, 16), 1, 8),
        (VIDEO, (8, 16), 3, 8),
        ("abs(i // 16 % 8 - j // 16 % 8) <= 1 and abs(i % 16 - j % 16) <= 1", (8, 16), 2, 8),  # any frame
    ],
    ids=["square", "frame", "video", "frames"],
)
def test_every_live_pair_once(mask: str, inner: tuple[int, ...], outer: int, forms: int) -> None:
    tokens, sizes = parse(f"Z * {np.prod(inner)}"), {"Z": outer, "B": 1}
    domain = Dim("b", parse("B")), Dim("i", tokens)
    n, found = int(evaluate(tokens, sizes)), 0
    whole = {**sizes, "i": np.arange(n)[:, None], "j": np.arange(n)}
    live = np.broadcast_to(array_value(parse(mask), whole), (n, n))
    for shape in (s for shapes in SHAPES.values() for s in shapes if len(s) == len(inner) + 1):
        names = NAMES[-len(shape) :]
        change = patches(domain, [(Dim("j", tokens), parse(mask))], inner, shape, names, ())
        if change is None:
            continue
        found += 1
        (box,) = change.boxes
        extents = {d.name: d.extent for d in change.domain}
        counts = np.zeros((n, n), dtype=int)
        for at in itertools.product(*(range(int(evaluate(extents[name], sizes))) for name in names)):
            here = {**sizes, **dict(zip(names, at, strict=True))}
            rows, keys = (max(int(evaluate(e, here)), 0) for e in (extents["i"], box.dim.extent))
            pairs = {**here, "i": np.arange(rows)[:, None], "j": np.arange(keys)}
            row, key = (np.broadcast_to(array_value(x, pairs), (rows, keys)) for x in (change.held["i"], box.now["j"]))
            assert ((row >= 0) & (row < n) & (key >= 0) & (key < n)).all(), shape
            np.add.at(counts, (row, key), 1)
        assert (counts <= 1).all(), shape
        assert (counts[live] == 1).all(), shape
    assert found == forms
