"""``attnc zoo`` on a zoo of two small systems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SYSTEM = '''"""{title}: every token sees {what}.

Somebody: Something about attention, 2020, section 1.
"""
import torch
import attnc

PATTERN = "{pattern}"


@attnc.compile
def attend(q, k, v):
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    return (q @ k.mT).masked_fill({dead}, -torch.inf).softmax(-1) @ v


def example_inputs(small=False):
    return {{"attend": tuple(torch.randn(3, 1, 1, 24 if small else 300, 8) / 4)}}
'''


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    place = tmp_path / "zoo"
    place.mkdir()
    for name, what, dead in (("before", "the past", "j > i"), ("around", "its neighbours", "(i - j).abs() > 4")):
        text = SYSTEM.format(title=f"The {name} system", what=what, pattern=name, dead=dead)
        (place / f"zoo_test_{name}.py").write_text(text)
    return place


def test_all(attnc, zoo: Path, tmp_path: Path) -> None:
    done = attnc("zoo", "--path", zoo, "--fast", "--json", tmp_path / "zoo.json")
    assert done.status == 0, done.out + done.err
    assert done.out.splitlines()[-1] == "2 systems: 2 right, 2 fused forward and backward"
    found = json.loads((tmp_path / "zoo.json").read_text())["systems"]["zoo_test_before"]
    assert found["fused"]
    assert found["facts"]["attend"]["live_pairs"] == 300 * 301 // 2
    assert 0.5 < found["computed"] < 1


def test_one_is_timed_and_drawn(attnc, zoo: Path, tmp_path: Path) -> None:
    kept = tmp_path / "zoo.json"
    options = ("--rounds", "1", "--picture", tmp_path / "around.png", "--json", kept)
    done = attnc("zoo", "zoo_test_around", "--path", zoo, *options)
    assert done.status == 0, done.out + done.err
    assert "attend: fused, 1 kernel" in done.out
    assert "window of 4 keys on each side" in done.out
    assert "faster than eager" in done.out
    assert "faster than sdpa" in done.out
    assert (tmp_path / "around.png").read_bytes().startswith(b"\x89PNG")
    before = json.loads(kept.read_text())["systems"]["zoo_test_around"]["ratio"]
    assert attnc("zoo", "--path", zoo, "--fast", "--json", kept).status == 0  # which measures nothing
    found = json.loads(kept.read_text())["systems"]
    assert found["zoo_test_around"]["ratio"] == before
    assert found["zoo_test_before"]["right"]
    assert "ratio" not in found["zoo_test_before"]


def test_the_page(attnc, zoo: Path, tmp_path: Path) -> None:
    done = attnc("zoo", "--path", zoo, "--docs", tmp_path / "zoo.md")
    assert (done.status, done.err.strip()) == (0, "")
    text = (tmp_path / "zoo.md").read_text()
    assert "| [The around system](#the-around-system) | around | yes | 2.98 % | 12.9 % |" in text
    assert "2 systems, 2 of them fused forward and backward" in text
    assert sorted(p.name for p in (tmp_path / "zoo").glob("*.png")) == ["zoo_test_around.png", "zoo_test_before.png"]


def test_mistakes(attnc, zoo: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, message in (
        (("--path", empty), "there is no zoo in"),
        (("zoo_test_befor", "--path", zoo), "did you mean"),
        (("--path", zoo, "--picture", "x.png"), "name it"),
    ):
        done = attnc("zoo", *arguments)
        assert done.status == 2
        assert message in done.err.replace("\n", " ")
