"""Tuned results on disk, in the cache folder beside the plans: one small JSON file each, without Optuna.

``tuned/results/<pattern>/<name>`` is a :class:`Record`.  ``tuned/programs/<digest>`` says which pattern a captured
graph is, so that a call whose plan is in the cache need not raise its graph to find its result.  Every file appears by
a rename and carries a checksum; one that fails the check is not there.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..cache import checked, digest, read_own, source_hash, tuned_results, with_checksum, write_atomically
from .errors import TunedFileError
from .pattern import Pattern
from .records import Record, dumps


class Store:
    """The results under one cache folder.  A folder that cannot be written makes every store a no-op."""

    def __init__(self, root: Path | None = None):
        self.results = tuned_results(root)
        self.root = self.results.parent
        self.programs = self.root / "programs"
        self.studies = f"sqlite:///{self.root / 'studies.db'}"  # where searches are kept if nothing else is said

    def of(self, pattern: str) -> list[Record]:
        """The results for a pattern, in a fixed order."""
        return sorted(_records(self.results / pattern), key=lambda r: (r.direction, r.lengths, r.name))

    def all(self) -> list[Record]:
        """Every result, by function, lengths and direction."""
        try:
            patterns = [p.name for p in self.results.iterdir()]
        except OSError:
            return []
        found = [r for name in patterns for r in self.of(name)]
        return sorted(found, key=lambda r: (r.function, r.dtype, r.lengths, r.direction, r.name))

    def put(self, record: Record) -> bool:
        """Keep a result in the place of an older one; returns whether that worked."""
        return _write(self.results / record.pattern / record.name, record.to_json())

    def remove(self, records: Iterable[Record]) -> int:
        """Forget results; returns how many."""
        count = 0
        for record in records:
            with contextlib.suppress(OSError):
                (self.results / record.pattern / record.name).unlink()
                count += 1
            with contextlib.suppress(OSError):  # succeeds only when that was the last
                (self.results / record.pattern).rmdir()
        with contextlib.suppress(OSError):
            self.results.rmdir()
            shutil.rmtree(self.programs, ignore_errors=True)
        return count

    # ---- which pattern a captured graph is

    def pattern(self, graph: str) -> Pattern | None:
        """The pattern noted for the text of a graph."""
        value = _read(self.programs / digest(source_hash(), graph))
        try:
            return None if value is None else Pattern(value["digest"], tuple(value["sizes"]))
        except (KeyError, TypeError):
            return None

    def note(self, graph: str, pattern: Pattern) -> None:
        """Note the pattern of a graph."""
        value = {"digest": pattern.digest, "sizes": pattern.sizes}
        _write(self.programs / digest(source_hash(), graph), value)


def _records(folder: Path) -> Iterator[Record]:
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        with contextlib.suppress(TunedFileError):  # of another format: not ours to use
            if not path.name.startswith(".") and (value := _read(path)) is not None:
                record = Record.from_json(value, str(path))
                if (record.pattern, record.name) == (folder.name, path.name):
                    yield record


def _write(path: Path, value: object) -> bool:
    return write_atomically(path, with_checksum(path.name, dumps(value).encode()))


def _read(path: Path) -> dict | None:
    try:
        data = read_own(path)
        body = None if data is None else checked(path.name, data)
        value = None if body is None else json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
