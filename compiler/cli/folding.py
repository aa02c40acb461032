"""Folding text for a terminal: what is long and seldom read becomes a few words."""

from __future__ import annotations

import re

MOST = 6  # items of a list, or lines of constants, that are shown whole

_LIST = re.compile(r"\[(?:[^\[\]\n,]+,\s*){6,}[^\[\]\n,]+\]")
_CONSTANT = re.compile(r"^\s*%\w+ = (?:arith|llvm\.mlir)\.constant\b")
_SIGNATURE = re.compile(r" : \((?:[^()\n]*,){3,}[^()\n]*\)(?: -> (?:\([^()\n]*\)|[^\s()]+))?$")


def fold(text: str) -> str:
    """The text with long lists, runs of constants and long signatures folded."""
    found: list[str] = []
    constants: list[str] = []
    for line in text.splitlines():
        if _CONSTANT.match(line):
            constants.append(line)
            continue
        found += _run(constants)
        constants = []
        found.append(_SIGNATURE.sub(" : (...)", _LIST.sub(_shorter, line)))
    return "\n".join(found + _run(constants)) + "\n"


def _shorter(match: re.Match[str]) -> str:
    items = [x.strip() for x in match[0][1:-1].split(",")]
    return f"[{items[0]}, {items[1]}, ... {len(items) - 3} more ..., {items[-1]}]"


def _run(constants: list[str]) -> list[str]:
    if len(constants) <= MOST:
        return [_LIST.sub(_shorter, line) for line in constants]
    indent = " " * (len(constants[0]) - len(constants[0].lstrip()))
    return [*constants[:2], f"{indent}... {len(constants) - 2} more constants (--no-fold shows them) ..."]
