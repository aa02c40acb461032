"""The picture of the Long Range Arena: accuracy against speed with memory as area, and both as lengths grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SHOWN = 4096  # the length of the paper's picture
Row = Mapping[str, Any]


def draw(rows: Sequence[Row], path: Path, limit: float) -> Path | None:
    """Write the picture; None where matplotlib is missing.  Eager had ``limit`` GiB for its matrices."""
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (arena, times, sizes) = plt.subplots(1, 3, figsize=(16, 5.2), layout="constrained")
    names = list(dict.fromkeys(row["model"] for row in rows))
    colours = {name: plt.get_cmap("tab20")(n) for n, name in enumerate(names)}
    _arena(arena, [row for row in rows if row["length"] == SHOWN], colours)
    for axes, label, key, unit in ((times, "seconds a step", "median_s", 1), (sizes, "peak MiB", "peak_bytes", 2**20)):
        for name in names:
            for who, style in (("attnc", "-o"), ("eager", ":x")):
                of = [r for r in rows if r["model"] == name and who in r[key]]
                values = [max(r[key][who] / unit, 1e-9) for r in of]
                label_of = name if who == "attnc" else None
                axes.plot([r["length"] for r in of], values, style, color=colours[name], markersize=4, label=label_of)
        axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
        ticks = sorted({row["length"] for row in rows})
        axes.set_xticks(ticks, [f"{n // 1024}K" for n in ticks])
        axes.minorticks_off()
        axes.grid(linewidth=0.3)
    words = f"attnc: solid; eager: dotted, and left out where its matrices exceed {limit:g} GiB"
    times.set_title(words, fontsize=9)
    sizes.legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _arena(axes: Any, rows: Sequence[Row], colours: Mapping[str, Any]) -> None:
    """Each model twice: a ring for eager, a disc for attnc, as large as what a step holds."""
    for row in rows:
        for who in row["median_s"]:
            area = 3 + row["peak_bytes"][who] / 2**20
            face = colours[row["model"]] if who == "attnc" else "none"
            edge = colours[row["model"]]
            axes.scatter(1 / row["median_s"][who], row["score"], area, facecolors=face, edgecolors=edge, alpha=0.7)
        speeds = [1 / s for s in row["median_s"].values()]
        axes.plot(speeds, [row["score"]] * len(speeds), color=colours[row["model"]], linewidth=0.8)
        axes.annotate(row["model"], (speeds[0], row["score"]), (0, 7), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel=f"steps a second, N={SHOWN:,}", ylabel="average accuracy (Tay et al. 2020, table 1)")
    axes.set_title("ring: eager, disc: attnc; area: peak memory of a step", fontsize=9)
    axes.grid(linewidth=0.3)
