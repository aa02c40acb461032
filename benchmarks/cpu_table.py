"""The measured tables of ``docs/cpu.md``, one for each ``results/cpu-*.json``; ``--check`` compares."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "cpu.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"


def table(data: Mapping[str, Any]) -> str:
    """A row for each case and rival; a ratio below its goal is in italics."""
    machine = data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [f"{machine['processor']}, {data['setup']['sizes']}, {machine['date']}; {versions}.", ""]
    lines += ["| case | faster than | ratio | goal | ours, ms | GF/s |", "|---|---|---:|---:|---:|---:|"]
    return "\n".join([*lines, *(row for case in data["rows"] for row in _rows(case))]) + "\n"


def _rows(case: Mapping[str, Any]) -> Iterator[str]:
    ours = case["median_s"]["attnc"] * 1e3
    for n, (rival, ratio) in enumerate(case["ratio"].items()):
        goal = case["goals"].get(rival)
        text = f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"
        text = f"*{text}*" if goal is not None and ratio < goal else text
        first = (case["case"], f"{ours:.3g}", f"{case['gflops']:.0f}") if n == 0 else ("", "", "")
        yield f"| {first[0]} | {rival} | {text} | {'' if goal is None else f'{goal:g}x'} | {first[1]} | {first[2]} |"


def page() -> str:
    """The page as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    tables = "\n".join(table(json.loads(path.read_text())) for path in sorted(RESULTS.glob("cpu-*.json")))
    return before + BEGIN + tables + END + rest.partition(END)[2]


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif page() != PAGE.read_text():
        raise SystemExit(f"{PAGE} is out of date: run python benchmarks/cpu_table.py")
