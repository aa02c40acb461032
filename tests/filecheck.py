"""Runs ``*.mlir`` tests in this process: passes named on the first line, expectations in comments.

``// RUN: attnc opt -p <passes>`` says what to run.  ``// CHECK:`` lines must be found in the output in order, each as a
substring after runs of blanks are made one; ``CHECK-NEXT`` on the next line, ``CHECK-NOT`` nowhere before the next
match.  ``{{...}}`` is a regular expression.  A file may hold several modules, split by ``// -----``.
"""

from __future__ import annotations

import re
from pathlib import Path

from attnc.compiler.pass_manager import PassManager, parse_passes
from attnc.ir.text import parse_module, print_module, verify

_RUN = re.compile(r"//\s*RUN:\s*attnc opt(?:\s+-p\s+(\"[^\"]*\"|\S+))?")
_CHECK = re.compile(r"//\s*CHECK(-NEXT|-NOT)?:\s?(.*)")


class CheckError(AssertionError):
    """Output that differs from what a test expects."""


def run_file(path: Path) -> None:
    """Run every module of a test file.  Raises :class:`CheckError`."""
    text = path.read_text()
    match = _RUN.match(text)
    if match is None:
        raise CheckError(f"{path}:1: the first line must be '// RUN: attnc opt -p <passes>'")
    passes = (match[1] or "").strip('"')
    line = 1
    for part in re.split(r"^// -----$", text, flags=re.MULTILINE):
        module = parse_module("\n" * (line - 1) + part, str(path))
        PassManager(parse_passes(passes) if passes else []).run(module)
        verify(module)
        check(print_module(module), part, f"{path}", line)
        line += part.count("\n")


def check(output: str, expectations: str, name: str, first_line: int = 1) -> None:
    """Compare output with the CHECK comments in ``expectations``.  Raises :class:`CheckError`."""
    lines = [_blank(x) for x in output.splitlines()]
    at, absent, found_any = 0, [], False
    for n, source in enumerate(expectations.splitlines()):
        if (match := _CHECK.search(source)) is None:
            continue
        kind, pattern = match[1] or "", _pattern(match[2])
        where = f"{name}:{first_line + n}: {match[0]}"
        if kind == "-NOT":
            absent.append((pattern, where))
            continue
        end = min(at + 1, len(lines)) if kind == "-NEXT" and found_any else len(lines)
        hit = next((k for k in range(at, end) if pattern.search(lines[k])), None)
        if hit is None:
            raise CheckError(f"{where}\nnot found from line {at + 1} of the output:\n{output}")
        _forbid(absent, lines[at:hit], output)
        at, absent, found_any = hit + 1, [], True
    _forbid(absent, lines[at:], output)


def _forbid(absent: list[tuple[re.Pattern[str], str]], lines: list[str], output: str) -> None:
    for pattern, where in absent:
        if any(pattern.search(x) for x in lines):
            raise CheckError(f"{where}\nis in the output:\n{output}")


def _blank(text: str) -> str:
    return " ".join(text.split())


def _pattern(text: str) -> re.Pattern[str]:
    parts = re.split(r"\{\{(.*?)\}\}", _blank(text))
    return re.compile("".join(p if n % 2 else re.escape(p) for n, p in enumerate(parts)))
