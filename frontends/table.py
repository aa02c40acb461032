"""The specialisations of one compiled function: bounded, and loud about a function that keeps compiling."""

from __future__ import annotations

import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from .errors import RecompileWarning
from .graph import Location
from .specialise import Specialisation

PER_KEY, KEYS = 64, 256  # specialisations of one kind of call, and kinds of call
Key = tuple[Hashable, ...]


class Table:
    """Kinds of calls (what ``describe`` gives for the arguments) with their specialisations, the latest first.

    Readers take no lock: the list of a key is replaced, never changed.
    """

    def __init__(self) -> None:
        self.rows: OrderedDict[Key, tuple[Specialisation, ...]] = OrderedDict()
        self._warned = False

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))

    def of(self, key: Key) -> tuple[Specialisation, ...]:
        """The specialisations for this kind of call."""
        return self.rows.get(key, ())

    def add(self, key: Key, new: Specialisation, arguments: Mapping[str, Any], inputs: Sequence[Any]) -> None:
        """Enter a specialisation, dropping the oldest where there are too many."""
        row = self.rows.get(key, ())
        if len(row) >= PER_KEY:
            self._warn(new, f"{_commonest(row, arguments, inputs)}; that keeps failing", len(row))
        self.rows[key] = (new, *row[: PER_KEY - 1])
        if len(self.rows) > KEYS:
            self._warn(new, _changing(list(self.rows.values()), new), len(self))
            self.rows.popitem(last=False)

    def _warn(self, new: Specialisation, why: str, count: int) -> None:
        if self._warned:
            return
        self._warned = True
        where: Location = new.graph.location
        text = (
            f"{where}: {new.graph.name} has been compiled {count + 1} times and the oldest results are dropped: {why}"
        )
        warnings.warn_explicit(text, RecompileWarning, where.file, where.line)


def _commonest(row: Sequence[Specialisation], arguments: Mapping[str, Any], inputs: Sequence[Any]) -> str:
    """The fact that most of these rely on and this call breaks; facts that differ in a number only are one."""
    facts = [fact for found in row if (fact := found.broken(arguments, inputs)) is not None]
    if not facts:
        return "each was compiled for other captured tensors"
    (pattern, _), *_ = Counter(_NUMBER.sub("#", f) for f in facts).most_common(1)
    example = next(f for f in facts if _NUMBER.sub("#", f) == pattern)
    return f"each relies on a fact like {example}"


_NUMBER = re.compile(r"-?\b\d+(?:\.\d*)?(?:e[+-]?\d+)?\b")


def _changing(rows: Sequence[Sequence[Specialisation]], new: Specialisation) -> str:
    """The argument that has had the most values."""
    values: dict[str, set[Hashable]] = {name: set() for name in new.kinds}
    for row in rows:
        for name, kind in row[0].kinds.items():
            values[name].add(kind)
    name = max(values, key=lambda n: len(values[n]))
    return (
        f"the argument {name} has had {len(values[name])} values or types; integers, strings and other objects are "
        "part of the program: pass a number that changes as a float or as a tensor"
    )
