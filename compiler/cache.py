"""The disk cache: plans and compiled kernels, found by a digest of all that they depend on.

One file holds one entry, under ``<root>/v1/<digest>/<variant>``.  A digest may have several variants: plans
of the same program that rely on different facts about sizes (their guards).  Safe with many processes and
a kill at any instant, because an entry appears by a rename and carries its own checksum; an entry that
fails the check is a miss, and the next build overwrites it.

Entries hold machine code, so two more things are asked of a file before a byte of it is used.  Nobody but its
owner may have been able to write it, and the owner is the user of this process or root.  And its checksum is
taken over the digest that it was stored for as well: a file that was moved or copied elsewhere is a miss.

Layout of an entry: a line with format and SHA-256 of digest and what follows, a line of JSON, the kernels' payloads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from ..backends.api import Artifact

log = logging.getLogger("attnc")

MAGIC = b"attnc-cache-2 "
LIMIT = 2 << 30  # bytes kept before the oldest entries go
_ABANDONED = 3600  # seconds after which a temporary file has no living writer
_stores = count()  # of this process


def default_dir() -> Path:
    """The folder used when ``ATTNC_CACHE_DIR`` is not set."""
    from platformdirs import user_cache_path

    return user_cache_path("attnc", appauthor=False)


def tuned_results(root: Path | None) -> Path:
    """The folder of what autotuning found; it is there only if something was."""
    return (root or default_dir()) / "tuned" / "results"


@cache
def source_hash() -> str:
    """A digest of this package's source files by name, size and time: what generated code depends on."""
    package = str(Path(__file__).parents[1])
    rows: list[str] = []
    todo = [os.path.join(package, top) for top in ("ir", "compiler", "frontends", "backends")]
    while todo:
        with os.scandir(todo.pop()) as entries:  # a Path for each, or os.walk, would take longer than all else
            for entry in entries:
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    rows.append(f"{entry.path[len(package) :]} {status.st_size} {status.st_mtime_ns}")
                elif entry.name != "__pycache__" and entry.is_dir():
                    todo.append(entry.path)
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def digest(*parts: str) -> str:
    """A name for an entry: SHA-256 over parts, each with its length so that borders count."""
    h = hashlib.sha256()
    for part in parts:
        data = part.encode()
        h.update(b"%d:" % len(data))
        h.update(data)
    return h.hexdigest()


@dataclass(frozen=True)
class Entry:
    """What one file holds: the plan's JSON, and the artifacts it names."""

    plan: str
    artifacts: dict[str, Artifact]


@dataclass(frozen=True)
class CacheStats:
    root: Path
    entries: int
    bytes: int


class DiskCache:
    """The cache under one folder.  A folder that cannot be written makes every store a no-op."""

    def __init__(self, root: Path | None = None):
        self.root = root or default_dir()
        self.entries = self.root / "v1"

    def load(self, key: str) -> Iterator[Entry]:
        """The readable variants stored for this digest."""
        try:
            paths = sorted((self.entries / key).iterdir())
        except OSError:
            return
        for path in paths:
            if not path.name.startswith(".") and (data := read_own(path)) and (body := checked(key, data)):
                if entry := _decode(body):
                    yield entry

    def store(self, key: str, entry: Entry) -> bool:
        """Keep an entry; returns whether that worked."""
        variant = digest(*json.loads(entry.plan).get("guards", []))[:16]
        done = write_atomically(self.entries / key / variant, with_checksum(key, _encode(entry)))
        if done and next(_stores) % 64 == 0:  # a look at the whole folder, now and then
            self.prune()
        return done

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        files: list[tuple[Path, os.stat_result]] = []
        for folder, _, names in os.walk(self.entries):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(OSError):  # another process may have removed it
                    files.append((path, path.stat()))
        return files

    def stats(self) -> CacheStats:
        files = [(p, s) for p, s in self._files() if not p.name.startswith(".")]
        return CacheStats(self.root, len(files), sum(s.st_size for _, s in files))

    def clear(self) -> None:
        """Remove every entry."""
        shutil.rmtree(self.entries, ignore_errors=True)

    def prune(self, limit: int = LIMIT) -> None:
        """Remove what killed writers left behind, then the oldest entries beyond ``limit`` bytes."""
        now = time.time()
        kept = 0
        for path, status in sorted(self._files(), key=lambda f: f[1].st_mtime, reverse=True):
            abandoned = path.name.startswith(".") and now - status.st_mtime > _ABANDONED
            kept += status.st_size
            if abandoned or kept > limit:
                with contextlib.suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()  # succeeds only when that was the last variant


# ---- bytes --------------------------------------------------------------------------------------------


def with_checksum(key: str, body: bytes) -> bytes:
    """What a file holds: ``body``, after a line that says what it is and whose."""
    return MAGIC + hashlib.sha256(key.encode() + body).hexdigest().encode() + b"\n" + body


def checked(key: str, data: bytes) -> bytes | None:
    """The body of :func:`with_checksum`, or None if a single bit of it is wrong or it was stored for another key."""
    _, newline, body = data.partition(b"\n")
    return body if newline and data == with_checksum(key, body) else None


def read_own(path: Path) -> bytes | None:
    """The bytes of a file that only this user, or root, can have written; None if there is no such file."""
    try:
        # a pipe with nobody at its other end would block
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())  # of what is open: the name may mean another file by now
            if not stat.S_ISREG(status.st_mode):
                return None
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                log.warning("%s is not used: another user owns it or may write it", path)
                return None
            return file.read()
    except OSError:
        return None


def write_atomically(path: Path, data: bytes) -> bool:
    """Make ``path`` hold ``data``, at once or not at all; returns whether that worked."""
    for _ in range(3):  # another process may prune the folder between two lines
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
            return True
        except FileNotFoundError:
            continue
        except OSError:
            if temporary:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
            return False
    return False


def _encode(entry: Entry) -> bytes:
    rows: list[dict[str, Any]] = []
    for name, artifact in sorted(entry.artifacts.items()):
        row = {"id": name, "backend": artifact.backend, "kernel": artifact.kernel, "meta": artifact.meta}
        rows.append({**row, "size": len(artifact.payload)})
    head = json.dumps({"plan": entry.plan, "artifacts": rows}, sort_keys=True).encode()
    return head + b"\n" + b"".join(a.payload for _, a in sorted(entry.artifacts.items()))


def _decode(body: bytes) -> Entry | None:
    head, _, payloads = body.partition(b"\n")
    try:
        data: Mapping[str, Any] = json.loads(head)
        artifacts: dict[str, Artifact] = {}
        start = 0
        for row in data["artifacts"]:
            end = start + row["size"]
            artifacts[row["id"]] = Artifact(row["backend"], row["kernel"], {}, payloads[start:end], row["meta"])
            start = end
        return Entry(data["plan"], artifacts) if start == len(payloads) else None
    except (ValueError, KeyError, TypeError):
        return None  # a checksum of something else: another attnc's format
