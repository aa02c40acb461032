"""Tile maps as formulas: the page evaluates the key ranges of the tiles that it shows, at any length."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...ir import attn, tile
from ...ir.attributes import Dim
from ...ir.expr import Const, Expr, free_vars
from ..analysis.index_sets import key_ranges
from ..coverage import loops_of
from .javascript import function


def of_kernel(kernel: tile.KernelOp, title: str, axes: Sequence[str] = ("query", "key")) -> dict[str, Any]:
    """What a kernel computes: a tile of rows for each point of its grid, and the ranges that its loops walk."""
    rows, loops = kernel.rows.data, loops_of(kernel)
    task = next((d for d in kernel.grid.data if d.name in free_vars(rows.base)), kernel.grid.data[-1])
    # Tasks that share the tiles of a point (segments of a gradient) differ in a bound that depends on the tile.
    shared = free_vars(rows.bound) if task.name in free_vars(rows.bound) else frozenset()
    owner = next((d for d in kernel.grid.data if d.name in shared and d is not task), None)
    keys = list(dict.fromkeys((x.key_memory, x.key_index) for x in loops))
    return {
        "title": title,
        "axes": list(axes),
        "task": task.name,
        "tasks": _code(task.extent),
        "owner": _dims([owner])[0] if owner else None,
        "row": rows.name,
        "size": rows.size,
        "base": _code(rows.base),
        "bound": _code(rows.bound),
        "grid": _dims(d for d in kernel.grid.data if d is not task and d is not owner),
        "loops": [
            {
                "kind": x.kind,
                "step": x.step,
                "key": x.axis,
                "source": keys.index((x.key_memory, x.key_index)),
                "ranges": [{"lo": _code(r.lo), "hi": _code(r.hi)} for r in x.ranges],
                "mask": _code(x.mask) if x.kind == "partial" else None,
            }
            for x in loops
        ],
        "sizes": sorted(kernel.size_names),
    }


def of_pattern(attend: attn.AttendOp, facts: Sequence[Expr], title: str) -> dict[str, Any]:
    """What is live, row by row, in the order in which the user wrote it."""
    *batch, row = attend.domain
    loops = []
    for n, s in enumerate(attend.source_list):
        ranges = key_ranges(attend.domain, 1, s, tuple(facts))
        for kind, chosen in (("full", ranges.full), ("partial", ranges.partial)):
            if chosen:
                found = [{"lo": _code(r.lo), "hi": _code(r.hi)} for r in chosen]
                mask = _code(s.mask) if kind == "partial" else None
                loops.append({"kind": kind, "step": 1, "key": s.key, "source": n, "ranges": found, "mask": mask})
    used = [d.extent for d in attend.domain] + [e for s in attend.source_list for e in (s.extent, s.mask)]
    inner = {d.name for d in attend.domain} | {s.key for s in attend.source_list}
    names = sorted({n for e in used for n in free_vars(e)} - inner)
    return {
        "title": title,
        "axes": ["query", "key"],
        "task": "t",
        "tasks": _code(row.extent),
        "owner": None,
        "row": row.name,
        "size": 1,
        "base": "(v) => v.t",
        "bound": _code(row.extent),
        "grid": _dims(batch),
        "loops": loops,
        "sizes": names,
    }


def _dims(dims: Any) -> list[dict[str, str | None]]:
    each: list[Dim] = list(dims)
    return [{"name": d.name, "extent": _code(d.extent)} for d in each]


def _code(e: Expr) -> str | None:
    """A JavaScript function; None where data decides."""
    if e == Const(True):
        return None
    try:
        return function(e)
    except ValueError:
        return None


def script(maps: Sequence[Mapping[str, Any]]) -> str:
    """The maps as a JavaScript array, functions and all."""
    return f"[{', '.join(_literal(m) for m in maps)}]"


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(_literal(v) for v in value)}]"
    if isinstance(value, str) and value.startswith("(v) => "):
        return value
    return json.dumps(value).replace("</", "<\\/")
