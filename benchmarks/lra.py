"""The attention of the Long Range Arena's models, attnc against eager PyTorch: time and memory from 1K to 16K tokens.

One step is forward and backward of one layer's attention, with gradients of all inputs.  Memory is the most that a step
holds beyond its inputs.  Eager is left out where its matrices of queries x keys would not fit ``--memory``.  A run of
some ``--lengths`` keeps what the file says of others, and draws the picture of all.  Long steps take fewer turns.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lra_page
import torch
from harness import RESULTS, Call, Comparison, arguments, compare, save, show
from lra_models import HEADS, MODELS, WIDTH, Model
from lra_picture import draw

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from _common import peak_bytes  # type: ignore[import-not-found]

FILE = "lra"
ENOUGH = 2.0  # seconds that turns of one contender take at most, but for the last


def step(function: Any, args: tuple[Any, ...]) -> None:
    """Forward and backward."""
    out = function(*args)
    wanted = [x for x in args if isinstance(x, torch.Tensor) and x.requires_grad]
    torch.autograd.grad(out, wanted, torch.ones_like(out), allow_unused=True)  # hashes take no gradient


def measure(model: Model, length: int, rounds: int, limit: float) -> tuple[Comparison, dict[str, Any]]:
    """The times, and the row of the file."""
    function, args = model.compiled(), model.arguments(length)
    calls: dict[str, Call] = {"attnc": partial(step, function, args)}
    if model.eager_bytes(length) <= limit * 2**30:
        calls["eager"] = partial(step, function.eager, args)
    found = compare(f"{model.name}, N={length:,}", calls, rounds, enough=ENOUGH)
    memory = {name: peak_bytes(call) for name, call in calls.items()}  # the smaller peak first
    row = {"model": model.name, "length": length, "score": model.score, "peak_bytes": memory}
    return found, row | found.to_json()


def kept(lengths: list[int], setup: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of other lengths from the last run, if it was of the same setup."""
    path = RESULTS / f"{FILE}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    return [r for r in before.get("rows", []) if before["setup"] == setup and r["length"] not in lengths]


def main() -> None:
    summary = (__doc__ or "").split("\n", 1)[0]
    options: dict[str, int | str] = {
        "lengths": "1024,2048,3072,4096,8192,16384",
        "rounds": 3,
        "threads": 2,
        "memory": 8,
        "models": "",
    }
    args = arguments(summary, left_out="lengths above 2,048", **options)
    torch.set_num_threads(args.threads)
    lengths = [n for n in map(int, args.lengths.split(",")) if n <= 2048 or not args.quick]
    chosen = [m for m in MODELS if not args.models or m.name in args.models.split(",")]
    setup = {"heads": HEADS, "width": WIDTH, "batch": 1, "dtype": "float32", "threads": args.threads}
    results: list[tuple[Comparison, dict[str, Any]]] = []
    for n in lengths:
        results += [measure(m, n, 3 if args.quick else args.rounds, args.memory) for m in chosen]
        if not args.quick and len(chosen) == len(MODELS):  # after each: a run that is cut off has not been in vain
            rows = sorted(kept(lengths[: lengths.index(n) + 1], setup) + [r for _, r in results], key=_length)
            path = save(FILE, rows, setup)
            lra_page.PAGE.write_text(lra_page.page())
            print(path, draw(rows, lra_page.PICTURE, args.memory) or "", flush=True)
    show([c for c, _ in results], f"forward and backward, B=1 H={HEADS} D={WIDTH}, float32, {args.threads} threads")
    for _, row in results:
        sizes = ", ".join(f"{who} {size / 2**20:,.1f} MiB" for who, size in row["peak_bytes"].items())
        print(f"{row['model']:12} N={row['length']:6,}: {sizes}")


def _length(row: dict[str, Any]) -> int:
    return int(row["length"])


if __name__ == "__main__":
    main()
