"""The parts of the user's files that a program came from."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

AROUND = 1  # lines shown around a line outside of any function


def excerpts(files: Mapping[str, str], places: Mapping[str, int]) -> list[dict[str, Any]]:
    """For each file, ``[number, text, place]`` of the functions that hold one of the places, decorators included."""
    used: dict[str, dict[int, int]] = {}
    for place, number in places.items():
        name, _, line = place.rpartition(":")
        used.setdefault(name, {})[int(line)] = number
    found = []
    for name in sorted(used):
        text = _text(files.get(name, ""))
        if text is None:
            lines: list[list[Any]] = [[n, "", used[name][n]] for n in sorted(used[name])]
        else:
            rows = text.splitlines()
            shown = _around(text, used[name])
            lines = [[n, rows[n - 1], used[name].get(n)] for n in sorted(shown) if 0 < n <= len(rows)]
        found.append({"file": name, "lines": lines})
    return found


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text() if path else None
    except (OSError, UnicodeDecodeError):
        return None


def _around(text: str, lines: Mapping[int, int]) -> set[int]:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return set(range(1, text.count("\n") + 2))
    spans = [
        (min([n.lineno, *(d.lineno for d in n.decorator_list)]), n.end_lineno or n.lineno)
        for n in ast.walk(tree)
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    shown: set[int] = set()
    for line in lines:
        inside = [s for s in spans if s[0] <= line <= s[1]]
        first, last = max(inside) if inside else (line - AROUND, line + AROUND)
        shown |= set(range(first, last + 1))
    return shown
