"""Measured tables in the documentation: each stands between two marks of its page."""

from __future__ import annotations

import sys
from pathlib import Path

_BEGIN, _END = "<!-- measured: begin -->\n", "<!-- measured: end -->"


def with_table(page: Path, table: str) -> str:
    """The page's text with ``table`` between its marks."""
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    return before + begin + table + end + after


def write_or_check(page: Path, text: str) -> None:
    """Write the page; with ``--check`` exit with an error where it is out of date."""
    if "--check" not in sys.argv:
        page.write_text(text)
    elif text != page.read_text():
        raise SystemExit(f"{page} is out of date: run python {Path(sys.argv[0]).name} in benchmarks/")
