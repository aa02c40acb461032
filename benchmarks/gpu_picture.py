"""The picture of a GPU run: for each case how much faster ours is than each rival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_plan import RIVALS

COLOURS = ("#1f77b4", "#2ca02c", "#ff7f0e")


def draw(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> bool:
    """Write the picture; False where matplotlib is missing or nothing was measured."""
    measured = [row for row in rows if row.get("ratio")]
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    if not measured:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.26 * len(measured)), layout="constrained")
    for n, (rival, colour) in enumerate(zip(RIVALS, COLOURS, strict=True)):
        points = [(row["ratio"][rival], k) for k, row in enumerate(measured) if rival in row["ratio"]]
        axes.scatter(*zip(*points, strict=True) if points else ((), ()), color=colour, s=22, label=rival, zorder=3 + n)
    for k, row in enumerate(measured):
        for rival, goal in row["goals"].items():
            axes.plot([goal, goal], [k - 0.4, k + 0.4], color=COLOURS[RIVALS.index(rival)], linewidth=1)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(measured)), [row["case"] for row in measured], fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="x", which="both", linewidth=0.3)
    axes.set_xlabel("times faster than the rival (a short line: the goal)")
    axes.set_title(title, fontsize=9)
    axes.legend(loc="lower right", fontsize=7)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True
