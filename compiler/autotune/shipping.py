"""A file of tuned results, to take them to other machines of the same kind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..settings import Settings
from .errors import TunedFileError
from .records import Record, dumps
from .store import Store

KIND = "attnc tuned results"


def export_tuned(path: str | Path, records: Sequence[Record]) -> None:
    """Write results to a JSON file that :func:`load_tuned` reads.  Raises :class:`TunedFileError`."""
    if not records:
        raise TunedFileError("there are no tuned results to export; make some with `attnc autotune TARGET`")
    rows = [r.to_json() for r in records]
    text = json.dumps({"kind": KIND, "sha256": _digest(rows), "results": rows}, indent=1, sort_keys=True)
    try:
        Path(path).write_text(text + "\n")
    except OSError as error:
        raise TunedFileError(f"cannot write {path}: {error.strerror}") from None


def load_tuned(path: str | Path) -> int:
    """Take over the results of a file, for this and later processes; returns how many.

    One that was found here is kept if it is at least as recent.  A result is used on the kind of device and with the
    versions that it was measured with.  Raises :class:`~.errors.TunedFileError`; then nothing was taken.
    """
    records = read_tuned(path)
    store = Store(Settings.of().cache_dir)
    known = {r.name: r.date for pattern in {r.pattern for r in records} for r in store.of(pattern)}
    taken = [r for r in records if known.get(r.name, "") < r.date]
    if not all(store.put(r) for r in taken):
        raise TunedFileError(f"cannot keep the results of {path}: {store.root} cannot be written; set ATTNC_CACHE_DIR")
    return len(taken)


def read_tuned(path: str | Path) -> list[Record]:
    """The results in a file.  Raises :class:`~.errors.TunedFileError`."""
    try:
        data: Any = json.loads(Path(path).read_text())
    except OSError as error:
        raise TunedFileError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise TunedFileError(f"{path} is no file of tuned results: it is not JSON") from None
    if not isinstance(data, dict) or data.get("kind") != KIND or not isinstance(data.get("results"), list):
        raise TunedFileError(f"{path} is no file of tuned results; `attnc autotune --export FILE` writes one")
    records = [Record.from_json(row, str(path)) for row in data["results"]]
    if data.get("sha256") != _digest(data["results"]):
        raise TunedFileError(f"{path} is damaged: its contents do not fit its checksum; export it again")
    return records


def _digest(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(dumps(rows).encode()).hexdigest()
