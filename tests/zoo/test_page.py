"""docs/zoo.md says what the zoo is: names, classes, fractions, and what is fused.  Times are those of the last run."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from attnc.compiler.zoo import judge
from attnc.compiler.zoo.page import TARGET, section, table_row, times
from attnc.compiler.zoo.pictures import png
from attnc.compiler.zoo.systems import BESIDE_PACKAGE, ZooError, files, folder, load, read_docstring

PATHS = files(BESIDE_PACKAGE)
DOCS = Path(__file__).parents[2] / "docs"
WRITE_ANEW = "docs/zoo.md is out of date: attnc zoo --docs docs/zoo.md"


@pytest.fixture(scope="module")
def page() -> str:
    return (DOCS / "zoo.md").read_text()


def test_it_names_every_system(page: str) -> None:
    assert re.findall(r"`examples/zoo/(\w+)\.py`\.$", page, re.MULTILINE) == [p.stem for p in PATHS], WRITE_ANEW
    assert sorted(p.stem for p in (DOCS / "zoo").glob("*.png")) == [p.stem for p in PATHS], WRITE_ANEW
    assert sum(p.stat().st_size for p in (DOCS / "zoo").iterdir()) < 1_500_000


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_a_system_is_up_to_date(path: Path, page: str) -> None:
    system = load(path)
    found = judge.facts(system, target=TARGET)
    row = table_row(system, found, {}).rstrip(" |")
    assert f"\n{row} |" in page, f"{WRITE_ANEW}\nit should say: {row}"
    assert section(system, found) in page, WRITE_ANEW


def test_the_mean_is_that_of_fused_systems() -> None:
    chosen = list(zip(PATHS[:3], (True, True, False), (2.0, 8.0, 100.0), strict=True))
    systems = [(load(p), [judge.Facts("f", fused, 1, 1, 1, 1, (), ())]) for p, fused, _ in chosen]
    measured = {
        "machine": {"processor": "a processor"},
        "threads": 2,
        "systems": {p.stem: {"ratio": {"eager": ratio}} for p, _, ratio in chosen},
    }
    text = times(systems, measured)
    assert "The 2 fused systems are 4.0x faster than eager in the geometric mean, and 2x at least." in text
    assert not times(systems, {})


def test_a_missing_zoo_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=f"there is no zoo in {tmp_path}: .* --path"):
        folder(tmp_path)


@pytest.mark.parametrize("text", ["", "Name.\n\nAuthors, 2020.", "Name: it sees.", "Name: it sees.\n\nNo year."])
def test_a_docstring_without_a_source_is_refused(text: str) -> None:
    with pytest.raises(ZooError, match="the source: authors, title, year"):
        read_docstring(text, Path("x.py"))


def test_a_picture_is_a_png() -> None:
    import zlib

    import numpy as np

    data = png(np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (3, 2)
    start = data.index(b"IDAT")
    size = struct.unpack(">I", data[start - 4 : start])[0]
    assert zlib.decompress(data[start + 4 : start + 4 + size]) == b"\0\0\1\2\0\3\4\5"
