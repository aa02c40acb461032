"""A buffer of indented source lines, and the names in it."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

# Names that the printed module or Triton's own language gives a meaning.
_RESERVED = frozenset(keyword.kwlist) | {
    "tl", "triton", "torch", "math", "pid", "range", "float", "int", "bool", "min", "max", "abs", "sum", "len",
    "print", "tasks", "launch", "floor_div", "floor_mod", "tanh", "NUM_WARPS", "NUM_STAGES",
    "ROWS", "contextvars", "plain_rows", "with_scratch", "processors", "launch_kernel",
}  # fmt: skip


WIDTH = 110  # of a printed line


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

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Names given within a loop's body are free again behind it."""
        before = set(self._taken)
        yield
        self._taken = before


class Source:
    """Lines of Python, indented by ``with source.indented():``."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 0

    def line(self, text: str = "") -> None:
        """Append a line; one that is too long and ends in a call gets a line for each argument."""
        indent = "    " * self._depth
        if len(indent) + len(text) <= WIDTH or not text.endswith(")") or "(" not in text:
            self._lines.append(indent + text if text else "")
            return
        head, arguments = _outer_call(text)
        comma = (
            "," if head[-1:].isalnum() or head[-1:] == "_" else ""
        )  # a comma makes a tuple of what stands in plain brackets
        self._lines += [f"{indent}{head}(", *(f"{indent}    {a}{comma}" for a in arguments), f"{indent})"]

    @contextmanager
    def indented(self) -> Iterator[None]:
        self._depth += 1
        yield
        self._depth -= 1

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _outer_call(text: str) -> tuple[str, list[str]]:
    """``head(a, b)`` -> ``head`` and its arguments, for text that ends in a call."""
    depth, cuts = 0, [len(text) - 1]
    for n in range(len(text) - 1, -1, -1):
        if text[n] in ")]":
            depth += 1
        elif text[n] in "([":
            depth -= 1
            if depth == 0:
                cuts.append(n)
                break
        elif text[n] == "," and depth == 1:
            cuts.append(n)
    cuts.reverse()
    return text[: cuts[0]], [text[a + 1 : b].strip() for a, b in pairwise(cuts)]
