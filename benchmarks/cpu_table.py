"""The measured tables of ``docs/cpu.md``, one for each ``results/cpu-*.json``; ``--check`` compares."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from measured import with_table, write_or_check

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "cpu.md"


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
    tables = "\n".join(table(json.loads(path.read_text())) for path in sorted(RESULTS.glob("cpu-*.json")))
    return with_table(PAGE, tables)


if __name__ == "__main__":
    write_or_check(PAGE, page())
