"""One tuned result, as it is kept on disk and shipped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..cache import digest
from .errors import TunedFileError
from .pattern import Lengths, Place

FORMAT = 1  # raise when the JSON form changes
DIRECTIONS = ("forward", "backward")


@dataclass(frozen=True)
class Record:
    """The choice that was fastest for one pattern, one class of lengths and one device, and what it was compared with.

    Seconds are the least of the last comparison, in which ``choice`` and the default took turns.
    """

    pattern: str
    direction: str
    lengths: Lengths
    device: str
    versions: str
    choice: dict[str, str]  # options of ``attnc.compile`` that force it; empty: the compiler's own choice
    default: str  # the compiler's own choice in words
    seconds: float
    default_seconds: float
    date: str
    function: str
    dtype: str
    widths: str
    sizes: dict[str, int] = field(default_factory=dict)  # those it was measured with
    tried: int = 0
    failed: int = 0

    @property
    def speedup(self) -> float:
        """How much faster than the default choice."""
        return self.default_seconds / self.seconds if self.seconds else 1.0

    @property
    def place(self) -> Place:
        return Place(self.device, self.versions)

    @property
    def name(self) -> str:
        """A digest of all that it is found by: two results of one name answer the same question."""
        return digest(self.pattern, self.direction, repr(self.lengths), self.device, self.versions)

    @property
    def short(self) -> str:
        """Enough of the name to point at it."""
        return self.name[:10]

    @property
    def words(self) -> str:
        """How it came about, for ``explain``."""
        if not self.choice:
            return f"the default, confirmed by autotuning on {self.date}: none of {self.tried} choices was faster"
        return f"chosen by autotuning on {self.date}, {self.speedup:.2f}x over the default"

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @staticmethod
    def from_json(value: Any, where: str) -> Record:
        """Read :meth:`to_json`, checking every field.  Raises :class:`TunedFileError`."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise TunedFileError(f"{where} holds no tuned result of format {FORMAT}, the one that this attnc reads")
        known = {f.name for f in fields(Record)}
        if strange := sorted((value.keys() - {"format"}) ^ known):
            raise TunedFileError(f"{where}: a tuned result has no or another field {strange[0]!r}")
        for name, kind in _KINDS.items():
            if not isinstance(value[name], kind) or isinstance(value[name], bool):
                raise TunedFileError(f"{where}: the field {name} of a tuned result is {value[name]!r}")
        if not all(isinstance(v, str) for v in value["choice"].values()):
            raise TunedFileError(f"{where}: the choice of a tuned result is {value['choice']!r}")
        numbers = [*value["lengths"], *value["sizes"].values()]
        times = value["seconds"], value["default_seconds"]
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or not all(0 < t < float("inf") for t in times):
            raise TunedFileError(f"{where}: a tuned result holds a size or a time that is none")
        if value["direction"] not in DIRECTIONS:
            raise TunedFileError(f"{where}: the direction of a tuned result is {value['direction']!r}")
        return Record(**{k: value[k] for k in known - {"lengths"}}, lengths=tuple(value["lengths"]))


_KINDS: Mapping[str, Any] = {
    f.name: {"str": str, "float": (int, float), "int": int, "Lengths": (list, tuple)}.get(str(f.type), dict)
    for f in fields(Record)
}


def dumps(value: Any) -> str:
    """JSON text, the same for equal values."""
    return json.dumps(value, sort_keys=True, allow_nan=False)
