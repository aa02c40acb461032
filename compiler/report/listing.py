"""Texts whose lines know which of the user's lines they came from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO

from xdsl.dialects.builtin import DictionaryAttr, ModuleOp, StringAttr
from xdsl.ir import Operation
from xdsl.printer import Printer

from ...ir.attributes import LINES

Origins = tuple[str, ...]  # "file.py:12", ...

# A line of a printed attention shows some of its parts: those whose keyword it starts with.
_ROLES = {"query": ("dot",), "source": ("dot", "mask", "score", "out"), "normaliser": ("softmax",), "out": ("out",)}
# How backends quote an op above what they generate for it.
_QUOTED = re.compile(r'\s*(?:\{lines = "([^"]*)"\}|, lines = "([^"]*)"|lines = "([^"]*)",? ?)')
_PLACE = re.compile(r"[^\s,:#\[\]]+:\d+(?=,|$|\])")


@dataclass(frozen=True)
class Listing:
    """A text line by line, each line with its origins."""

    lines: list[str]
    origins: list[Origins]


def of_module(module: ModuleOp) -> Listing:
    """The text of a module; a line belongs to the innermost op that it shows."""
    stream = _Counting()
    printer = _Recorder(stream)
    hidden = [(op, op.attributes.pop(LINES)) for op in module.walk() if LINES in op.attributes]
    known = dict(hidden)
    try:
        printer.print_op(module)
    finally:
        for op, lines in hidden:
            op.attributes[LINES] = lines
    text = stream.getvalue().split("\n")
    origins: list[Origins] = [()] * len(text)
    for op, first, last in sorted(printer.spans, key=lambda s: (s[1], -s[2])):  # the outer one first
        sources = 0
        for n in range(first, min(last, len(text) - 1) + 1):
            origins[n] = _origins(op, known.get(op), text[n], sources)
            sources += text[n].lstrip().startswith("source ")
    return Listing(text, origins)


def _origins(op: Operation, lines: object, text: str, source: int) -> Origins:
    match lines:
        case StringAttr():
            return tuple(lines.data.split(", "))
        case DictionaryAttr():
            roles = _ROLES.get(text.split(maxsplit=1)[0] if text.strip() else "", tuple(lines.data))
            if (own := f"mask{source}") in lines.data:
                roles = tuple(own if r == "mask" else r for r in roles)
            chosen = [lines.data[r] for r in roles if r in lines.data]
            places = [p for s in chosen if isinstance(s, StringAttr) for p in s.data.split(", ")]
            return tuple(dict.fromkeys(places))
    at = op.attributes.get("at")
    return (at.data,) if isinstance(at, StringAttr) else ()


def of_source(text: str) -> Listing:
    """Generated code: what follows comments that name the user's lines belongs to these.

    Ops that are fused into one loop are quoted one after the other above it, and it belongs to the lines of all.
    """
    shown, origins = [], []
    current: Origins = ()
    after_comment = False
    for line in text.rstrip("\n").split("\n"):
        named: Origins = ()
        if line.lstrip().startswith(("//", "#", ";")):
            if found := _QUOTED.search(line):
                named = tuple(next(g for g in found.groups() if g is not None).split(", "))
                line = _QUOTED.sub("", line) + f"  [{', '.join(named)}]"
            else:
                named = tuple(_PLACE.findall(line))
        if named:
            current = tuple(dict.fromkeys(current + named)) if after_comment else named
        after_comment = bool(named)
        shown.append(line)
        origins.append(named or current)
    return Listing(shown, origins)


def of_graph(text: str) -> Listing:
    """The traced graph: each op ends in a comment with its place."""
    lines = text.rstrip("\n").split("\n")
    return Listing(lines, [tuple(_PLACE.findall(x.rpartition("#")[2])) for x in lines])


class _Counting(StringIO):
    """Knows the number of the line that it is at."""

    def __init__(self) -> None:
        super().__init__()
        self.line = 0

    def write(self, text: str) -> int:
        self.line += text.count("\n")
        return super().write(text)


class _Recorder(Printer):
    """Notes from which line to which each op is printed."""

    def __init__(self, stream: _Counting):
        super().__init__(stream)
        self.counting = stream
        self.spans: list[tuple[Operation, int, int]] = []

    def print_op(self, op: Operation) -> None:
        first = self.counting.line
        super().print_op(op)
        self.spans.append((op, first, self.counting.line))
