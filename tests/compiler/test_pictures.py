"""Tile maps: the boxes that are drawn, and the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnc.compiler.pictures import PictureError, layout, tile_map
from attnc.ir import tile
from attnc.ir.expr import evaluate, parse

from .test_explain import lowered

pytest.importorskip("matplotlib")


def test_boxes_hold_every_live_pair_once() -> None:
    low = lowered("j <= i and i - j <= 70 or j < 3", N=150)
    (kernel,) = tile.kernels_of(low.module("tile")).values()
    drawn = layout(kernel, low.hints, {})
    assert (drawn.queries, drawn.keys, drawn.split) == (150, 150, "")
    mask = parse("j <= i and i - j <= 70 or j < 3")
    covered: dict[tuple[int, int], str] = {}
    for b in drawn.boxes:
        for i in range(b.query, b.query + b.rows):
            for j in range(b.key, b.key + b.keys):
                assert (i, j) not in covered
                covered[i, j] = b.kind
    for i in range(150):
        for j in range(150):
            live = evaluate(mask, {"i": i, "j": j})
            assert not live or (i, j) in covered
            assert live or covered.get((i, j)) != "full"


def test_residue_classes_lie_side_by_side() -> None:
    low = lowered("abs(i - j) <= 160 and (i - j) % 8 == 0", N=1001)
    (kernel,) = tile.kernels_of(low.module("tile")).values()
    drawn = layout(kernel, low.hints, {})
    assert (drawn.queries, drawn.keys, drawn.split, len(drawn.parts)) == (1001, 1001, "r", 8)
    assert all(abs(b.query - b.key) < 126 for b in drawn.boxes)


@pytest.mark.parametrize("suffix, magic", [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_files(tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"map{suffix}"
    tile_map(lowered("j <= i", N=100), path=path, title="causal")
    assert path.read_bytes().startswith(magic)


def test_a_million_tokens(tmp_path: Path) -> None:
    tile_map(lowered("abs(i - j) <= 5000"), {"N": 1 << 20}, tmp_path / "long.png")


def test_mistakes(tmp_path: Path) -> None:
    low = lowered("True", N=10)
    with pytest.raises(PictureError, match=r"end in \.png"):
        tile_map(low, path=tmp_path / "map.txt")
    with pytest.raises(PictureError, match="no folder"):
        tile_map(low, path=tmp_path / "no" / "map.png")
    (kernel,) = tile.kernels_of(low.module("tile")).values()
    with pytest.raises(PictureError, match="no value for"):
        tile_map(kernel, {"H": 1})
