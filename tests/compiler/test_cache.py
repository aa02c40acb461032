"""The disk cache: whole entries or none, whatever other processes do or a kill leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnc.backends.api import Artifact
from attnc.compiler.cache import DiskCache, Entry, digest, write_atomically

KEY = digest("some program")


def entry(*guards, payload=b"\x00code\n\xff" * 50):
    artifacts = {
        "k": Artifact("cpu", "kernel", {}, payload, {"args": ["q", "k"]}),
        "e": Artifact("cpu", "other", {}, b""),
    }
    return Entry(json.dumps({"guards": guards}), artifacts)


@pytest.fixture
def cache(tmp_path):
    return DiskCache(tmp_path)


def files(cache):
    return sorted(p for p in cache.entries.rglob("*") if p.is_file())


def test_round_trip(cache):
    assert list(cache.load(KEY)) == []
    assert cache.store(KEY, entry())
    assert list(cache.load(KEY)) == [entry()]


def test_variants_live_side_by_side(cache):
    for guards in (["D == 64"], ["D == 128"], ["D == 64"]):
        cache.store(KEY, entry(*guards))
    assert sorted(e.plan for e in cache.load(KEY)) == ['{"guards": ["D == 128"]}', '{"guards": ["D == 64"]}']


def test_any_flipped_bit_is_a_miss(cache):
    cache.store(KEY, entry())
    (path,) = files(cache)
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert list(cache.load(KEY)) == [], f"byte {at}"


@pytest.mark.parametrize("cut", [0, 1, 14, 79, 80, 200, -1])
def test_a_truncated_entry_is_a_miss_and_is_overwritten(cache, cut):
    cache.store(KEY, entry())
    (path,) = files(cache)
    path.write_bytes(path.read_bytes()[:cut])
    assert list(cache.load(KEY)) == []
    cache.store(KEY, entry())
    assert list(cache.load(KEY)) == [entry()]


def test_an_entry_stored_for_another_digest_is_a_miss(cache):
    cache.store(KEY, entry())
    (path,) = files(cache)
    other = cache.entries / digest("another program") / path.name
    other.parent.mkdir()
    path.replace(other)
    assert list(cache.load(digest("another program"))) == []


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_may_write_is_not_read(cache, mode, caplog):
    cache.store(KEY, entry())
    (path,) = files(cache)
    path.chmod(mode)
    assert list(cache.load(KEY)) == []
    assert "another user owns it or may write it" in caplog.text
    cache.store(KEY, entry())
    assert list(cache.load(KEY)) == [entry()]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_another_user_owns_is_not_read(cache, caplog):
    cache.store(KEY, entry())
    (path,) = files(cache)
    os.chown(path, 12345, 12345)
    assert list(cache.load(KEY)) == []
    assert "another user owns it" in caplog.text


def test_what_is_no_file_is_not_read(cache):
    cache.store(KEY, entry())
    (path,) = files(cache)
    path.unlink()
    os.mkfifo(path)
    (path.parent / "folder").mkdir()
    (path.parent / "loop").symlink_to("loop")
    assert list(cache.load(KEY)) == []


def test_digest_counts_borders():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a") == digest("a")


def test_stats_clear_and_prune(cache):
    for n in range(4):
        cache.store(digest(str(n)), entry(payload=bytes(1000)))
        os.utime(files(cache)[-1])
    stats = cache.stats()
    assert stats.entries == 4
    assert stats.bytes == sum(p.stat().st_size for p in files(cache))
    newest = max(files(cache), key=lambda p: p.stat().st_mtime_ns)
    for path in files(cache):
        os.utime(path, (1, 1) if path != newest else None)
    cache.prune(limit=stats.bytes // 4)
    assert files(cache) == [newest]
    cache.clear()
    assert cache.stats().entries == 0


def test_prune_removes_only_abandoned_temporaries(cache):
    cache.store(KEY, entry())
    folder = cache.entries / KEY
    old, new = folder / ".old", folder / ".new"
    for path in (old, new):
        path.write_bytes(b"half an ent")
    os.utime(old, (1, 1))
    cache.prune()
    assert not old.exists()
    assert new.exists()
    assert list(cache.load(KEY)) == [entry()]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    cache = DiskCache(tmp_path / "file" / "below")
    assert not cache.store(KEY, entry())
    assert list(cache.load(KEY)) == []
    assert cache.stats().entries == 0


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond some bytes, as where a disk is full: the first are written, then the write fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(cache):
    cache.store(KEY, entry())
    with full_disk():
        assert not cache.store(digest("a large program"), entry(payload=bytes(100_000)))
        assert not cache.store(KEY, entry(payload=bytes(100_000)))
    assert list(cache.load(KEY)) == [entry()]  # the old one, whole
    assert len(files(cache)) == 1, "half a file was left behind"


@contextlib.contextmanager
def nobody(folder):
    """This process may not use the folder."""
    folder.chmod(0o000)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)


def test_a_folder_that_only_others_may_use(cache):
    cache.store(KEY, entry())
    with nobody(cache.root):
        assert list(cache.load(KEY)) == []
        assert not cache.store(KEY, entry())
        assert cache.stats().entries == 0
        cache.prune()
        cache.clear()
    assert list(cache.load(KEY)) == [entry()]


def test_atomic_write_leaves_no_temporary(tmp_path):
    assert write_atomically(tmp_path / "a" / "b", b"1")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


WRITER = """
import json, sys
from pathlib import Path
from attnc.backends.api import Artifact
from attnc.compiler.cache import DiskCache, Entry
cache, n = DiskCache(Path(sys.argv[1])), 0
print("ready", flush=True)
while True:
    n += 1
    kernel = Artifact("cpu", "k", {}, bytes([n % 256]) * 100_000)
    cache.store(sys.argv[2], Entry(json.dumps({"guards": [], "n": n}), {"k": kernel}))
"""


def test_writers_killed_at_any_instant(cache):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WRITER, str(cache.root), KEY]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(2)]
    for writer in writers:
        assert writer.stdout.readline() == b"ready\n"
    read = 0
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        for found in cache.load(KEY):
            n = json.loads(found.plan)["n"]
            assert found.artifacts["k"].payload == bytes([n % 256]) * 100_000
            read += 1
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    assert read
    assert len(list(cache.load(KEY))) == 1  # whole, whatever the kill interrupted


def test_default_folder_follows_the_platform(monkeypatch):
    from attnc.compiler.cache import default_dir

    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert sys.platform != "linux" or default_dir() == Path("/somewhere/attnc")
