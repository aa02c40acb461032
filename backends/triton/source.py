"""A buffer of indented source lines, and the names in it."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from contextlib import contextmanager

# Names that the printed module or Triton's own language gives a meaning.
_RESERVED = frozenset(keyword.kwlist) | {
    "tl", "triton", "torch", "math", "pid", "range", "float", "int", "bool", "min", "max", "abs", "sum", "len",
    "print", "tasks", "launch", "floor_div", "floor_mod", "tanh", "NUM_WARPS", "NUM_STAGES",
}  # fmt: skip


class Names:
    """Gives out identifiers: the wanted one where it is free, else with a number."""

    def __init__(self) -> None:
        self._taken: set[str] = set(_RESERVED)

    def fresh(self, wanted: str) -> str:
        base = re.sub(r"\W", "_", wanted) or "x"
        if base[0].isdigit():
            base = f"t{base}"
        name, n = base, 1
        while name in self._taken:
            name = f"{base}_{n}"
            n += 1
        self._taken.add(name)
        return name


class Source:
    """Lines of Python, indented by ``with source.indented():``."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 0

    def line(self, text: str = "") -> None:
        self._lines.append("    " * self._depth + text if text else "")

    @contextmanager
    def indented(self) -> Iterator[None]:
        self._depth += 1
        yield
        self._depth -= 1

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"
