"""Tuned results without a search: what they are found by, which is nearest, and the files that carry them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attnc
from attnc.compiler.autotune import lookup
from attnc.compiler.autotune.pattern import Lengths, Pattern, length_class, pattern_of
from attnc.compiler.autotune.records import Record
from attnc.compiler.autotune.shipping import export_tuned, read_tuned
from attnc.compiler.autotune.store import Store
from attnc.ir.text import parse_module

MODULE = """
attn.func @{f}(%{q}: !attn.tensor<"H, N, 16", f32>, %{k}: !attn.tensor<"H, {M}, {D}", f32>,
               %{v}: !attn.tensor<"H, {M}, 16", f32>) {{
  %o, %lse = attn.attend over "h < H, i < N"
    query %{q} "h, i, d" width 16
    source "j < {M}" key %{k} "h, j, d" value %{v} "h, j, e" mask "abs(i - j) <= {reach}" score "lambda dot: dot * 0.25"
    normaliser softmax
    out "h, i, e" width 16 lse "h, i"
    : (!attn.tensor<"H, N, 16", f32>, !attn.tensor<"H, {M}, {D}", f32>, !attn.tensor<"H, {M}, 16", f32>)
    -> (!attn.tensor<"H, N, 16", f32>, !attn.tensor<"H, N", f32>)
  attn.return %o : !attn.tensor<"H, N, 16", f32>
}}
"""
NAMES = {"f": "f", "q": "q", "k": "k", "v": "v", "M": "M", "D": "16", "reach": "40"}


def pattern(**names: str) -> Pattern:
    return pattern_of(parse_module(MODULE.format(**NAMES | names)))


def record(direction: str, lengths: Lengths, choice: str, pattern: str = "p" * 64) -> Record:
    options = {"choice": choice} if choice else {}
    sizes = {"N": 2 ** lengths[0]}
    return Record(
        pattern, direction, lengths, "a device", "versions", options, "own", 1.0, 1.25, "2026-01-02", "f", "f32",
        "16 x 16", sizes, 3, 1,
    )  # fmt: skip


# ---- explained


def test_a_result_of_other_attentions_is_set_aside_and_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def both(q, p, k, v):
        return (q @ k.mT).softmax(-1) @ v, (p @ k.mT).softmax(-1) @ v

    def explained(rows: int) -> attnc.Explanation:
        q, k, v = torch.ones(3, 1, 1, 40, 16)
        return attnc.compile(both, backend="cpu").lower(q, q[..., :rows, :], k, v).explain()

    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path))
    lowered = explained(40).subject
    found, place = pattern_of(lowered.make_module()), lookup.place_of(lowered.request)
    known = record("forward", found.lengths(lowered.hints), "rows=16,keys=24; rows=32,keys=48", found.digest)
    assert Store(tmp_path).put(dataclasses.replace(known, device=place.device, versions=place.versions))
    assert [k.tiles for k in explained(40).kernels] == [(16, 24), (32, 48)]
    few = explained(1)  # one query has tiles of its own, which leaves one attention to choose for
    assert few.kernels[0].tiles != (16, 24)
    assert "autotuning on 2026-01-02 does not fit these sizes" in few.kernels[0].why
    assert "2 choices for 1 attentions" in few.kernels[0].why


# ---- patterns


def test_names_make_no_difference_to_a_pattern():
    other = pattern(f="g", q="query", k="key", v="value", M="L")
    assert other.digest == pattern().digest
    assert pattern().sizes == ("N", "M")
    assert other.sizes == ("N", "L")


def test_what_is_computed_makes_a_pattern():
    assert pattern(reach="41").digest != pattern().digest


def test_a_pattern_is_the_same_in_another_process():
    code = f"""
from attnc.compiler.autotune.pattern import pattern_of
from attnc.ir.text import parse_module
print(pattern_of(parse_module({MODULE.format(**NAMES)!r})).digest)
"""
    env = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == pattern().digest


def test_length_classes_end_at_powers_of_two():
    assert [length_class(n) for n in (0, 1, 2, 3, 4, 5, 1023, 1024, 1025)] == [0, 0, 1, 2, 2, 3, 10, 10, 11]
    assert pattern().lengths({"H": 3, "N": 1000, "M": 64}) == (10, 6)
    assert pattern().lengths({"H": 3, "N": 1000}) is None


# ---- the nearest class

RECORDS = [record("forward", (9, 9), "a"), record("forward", (13, 13), "b"), record("backward", (9, 9), "c")]


@pytest.mark.parametrize(
    "at, choice", [((9, 9), "a"), ((12, 12), "b"), ((11, 11), "a"), ((30, 30), "b"), ((0, 0), "a")]
)
def test_the_nearest_class_serves_a_call(at: Lengths, choice: str):
    found = lookup.nearest(RECORDS, "forward", at)
    assert found is not None
    assert found.choice == {"choice": choice}
    assert lookup.nearest(RECORDS[2:], "forward", at) is None


def test_guards_hold_where_the_same_result_is_nearest():
    p = pattern()
    for at in [(n, m) for n in range(8, 15, 2) for m in range(8, 15, 2)]:
        guards = [g.split() for g in lookup.guards_of(p, RECORDS, at)]
        answer = [lookup.nearest(RECORDS, d, at) for d in ("forward", "backward")]
        for cell in [(n, m) for n in range(7, 16) for m in range(7, 16)]:
            sizes = {"N": 2 ** cell[0], "M": 2 ** cell[1]}
            holds = all(sizes[a] > int(b) if op == ">" else sizes[a] <= int(b) for a, op, b in guards)
            if cell == at:
                assert holds
            if holds:
                assert [lookup.nearest(RECORDS, d, cell) for d in ("forward", "backward")] == answer


def test_one_result_serves_every_length():
    assert lookup.guards_of(pattern(), RECORDS[:1], (11, 4)) == ()
    same = [record("forward", (9, 9), "a"), record("forward", (13, 13), "a")]
    assert lookup.guards_of(pattern(), same, (11, 4)) == ()


# ---- files


def test_a_result_is_kept_until_it_is_forgotten(tmp_path: Path):
    store = Store(tmp_path)
    assert all(store.put(r) for r in RECORDS)
    assert store.results.is_dir()
    assert store.of("p" * 64) == sorted(RECORDS, key=lambda r: (r.direction, r.lengths))
    newer = dataclasses.replace(RECORDS[0], date="2026-03-04")
    store.put(newer)
    assert len(store.all()) == 3
    assert newer in store.all()
    assert store.remove(store.all()) == 3
    assert not store.results.exists()


def test_a_damaged_result_is_not_there(tmp_path: Path):
    store = Store(tmp_path)
    store.put(RECORDS[0])
    (path,) = [p for p in store.results.rglob("*") if p.is_file()]
    whole = path.read_bytes()
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert store.all() == [], f"byte {at}"


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNC_CACHE_DIR", str(tmp_path / "theirs"))
    export_tuned(tmp_path / "tuned.json", RECORDS)
    return tmp_path / "tuned.json"


def test_what_is_exported_can_be_loaded(exported: Path, tmp_path: Path):
    assert read_tuned(exported) == RECORDS
    assert attnc.load_tuned(exported) == 3
    store = Store(tmp_path / "theirs")
    assert sorted(store.all(), key=repr) == sorted(RECORDS, key=repr)
    newer = dataclasses.replace(RECORDS[0], date="2027-01-01", choice={})
    store.put(newer)
    assert attnc.load_tuned(exported) == 0
    assert newer in store.all()


def _changed(path: Path, change: object) -> None:
    data = json.loads(path.read_text())
    change(data)  # type: ignore[operator]
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d["results"][0].update(seconds=0.5), "is damaged"),
        (lambda d: d["results"][0].update(seconds=-1.0), "a size or a time"),
        (lambda d: d["results"][0].update(choice={"choice": 3}), "the choice of a tuned result"),
        (lambda d: d["results"][0].update(lengths="9"), "the field lengths"),
        (lambda d: d["results"][0].update(direction="sideways"), "the direction of"),
        (lambda d: d["results"][0].update(format=99), "no tuned result of format"),
        (lambda d: d["results"][0].pop("device"), "no or another field 'device'"),
        (lambda d: d["results"].pop(), "is damaged"),
        (lambda d: d.pop("kind"), "no file of tuned results"),
    ],
)
def test_a_tampered_file_is_refused_whole(exported: Path, tmp_path: Path, change: object, message: str):
    _changed(exported, change)
    with pytest.raises(attnc.TunedFileError, match=message):
        attnc.load_tuned(exported)
    assert Store(tmp_path / "theirs").all() == []


@pytest.mark.parametrize("text", ["", "[]", "\x00\xff", "not json", '{"kind": "attnc tuned results"}'])
def test_a_foreign_file_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "foreign"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(attnc.TunedFileError, match="no file of tuned results"):
        attnc.load_tuned(path)


def test_files_that_cannot_be_read_or_written(tmp_path: Path):
    with pytest.raises(attnc.TunedFileError, match="cannot read"):
        attnc.load_tuned(tmp_path / "absent.json")
    with pytest.raises(attnc.TunedFileError, match="cannot write"):
        export_tuned(tmp_path / "absent" / "x.json", RECORDS)
    with pytest.raises(attnc.TunedFileError, match="no tuned results"):
        export_tuned(tmp_path / "x.json", [])
