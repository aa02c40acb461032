"""The measured table of ``docs/long-range-arena.md``, from ``results/lra.json``; ``--check`` compares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measured import with_table, write_or_check

RESULT = Path(__file__).parent / "results" / "lra.json"
PAGE = Path(__file__).parents[1] / "docs" / "long-range-arena.md"
PICTURE = PAGE.parent / "pictures" / "long_range_arena.png"


def table(data: Mapping[str, Any]) -> str:
    """A row for each model, a column for each length."""
    machine, rows = data["machine"], data["rows"]
    lengths = sorted({r["length"] for r in rows})
    lines = [f"{machine['processor']}, {machine['date']}; torch {machine['versions']['torch']}.", ""]
    lines += [f"| model | {' | '.join(f'{n:,}' for n in lengths)} |", "|---|" + "---|" * len(lengths)]
    for model in dict.fromkeys(r["model"] for r in rows):
        of = {r["length"]: _cell(r) for r in rows if r["model"] == model}
        lines.append(f"| {model} | {' | '.join(of.get(n, '') for n in lengths)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any]) -> str:
    seconds, peak = row["median_s"], {who: f"{size / 2**20:,.0f}" for who, size in row["peak_bytes"].items()}
    ours = f"{seconds['attnc'] * 1e3:,.3g} ms" if seconds["attnc"] < 1 else f"{seconds['attnc']:.2g} s"
    if "eager" not in seconds:
        return f"{ours}, {peak['attnc']} MiB"
    return f"{seconds['eager'] / seconds['attnc']:.2g}x ({ours}), {peak['attnc']} / {peak['eager']} MiB"


def page() -> str:
    """The page as it should be."""
    return with_table(PAGE, table(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    write_or_check(PAGE, page())
