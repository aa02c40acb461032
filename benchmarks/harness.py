"""What every benchmark shares: its options, and its result as a JSON file with the machine and the versions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnc.compiler.cli.timing import Call, Comparison, compare, machine, show

__all__ = ["Call", "Comparison", "arguments", "compare", "save", "show"]

RESULTS = Path(__file__).parent / "results"


def arguments(description: str, *, left_out: str = "", **defaults: int | str) -> argparse.Namespace:
    """The options that every benchmark takes, and ``defaults`` as options of its own.

    ``left_out`` says what a quick run does not measure.
    """
    parser = argparse.ArgumentParser(description=description)
    quick = "few rounds, and no file is written" + (f"; leaves out {left_out}" if left_out else "")
    parser.add_argument("--quick", action="store_true", help=quick)
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help="default: %(default)s")
    return parser.parse_args()


def save(name: str, rows: Sequence[Comparison | Mapping[str, Any]], setup: Mapping[str, Any]) -> Path:
    """Write ``results/<name>.json``: setup, machine, versions, and every single time."""
    found = [row.to_json() if isinstance(row, Comparison) else dict(row) for row in rows]
    data = {"setup": dict(setup), "machine": machine(), "rows": found}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(data, indent=1) + "\n")
    return path
