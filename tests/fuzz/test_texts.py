"""A slice of the texts and command lines that ``python -m tests.fuzz.texts`` tries for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from .texts import check_command, check_text, commands, search, texts

# what was found once
FOUND = [
    'tile.kernel @k(%q: !tile.mem<2, f32>) outputs 1 grid "t < N" rows "i, t * 4, N" {}',
    'tile.kernel @k(%q: !tile.mem<2, f32>) outputs 1 grid "t < N" rows "i, t * 4, 4, N',
    f"tile.kernel @k(%q: !tile.mem<{'9' * 5000}, f32>) outputs 1",
    "tile.kernel @\ud800",
    '%Q = "tile.load"() {index = #attn.map<"ú">} : () -> ()',
    'attn.func @f(%q: !attn.tensor<"1 << (1 << 40)", f32>) guards [] {}',
]


@pytest.mark.parametrize("text", FOUND)
def test_found(text: str) -> None:
    assert check_text(text) == "refused"


def test_ir() -> None:
    kinds = search(1, 400, texts(), check_text)
    assert kinds["refused"] > 100


def test_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    kinds = search(2, 30, commands(), lambda drawn: check_command(tmp_path, drawn))
    assert sum(kinds.values()) >= 30


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bytes.mlir"
    path.write_bytes(b"attn.func @f(\xff\xfe\x00")
    assert check_command(tmp_path, (["opt", str(path)], "")) == "status 2"
