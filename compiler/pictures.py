"""Pictures of how a pattern is tiled: which tiles are skipped, which need the mask, which do not.

Drawn from the closed-form key ranges of the kernel, one rectangle a range, so a long sequence costs no more than a
short one.  Where queries and keys are few the live pairs are drawn too.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import attn, tile
from ..ir.attributes import Dim
from ..ir.errors import AttncError
from ..ir.expr import evaluate, free_vars, loads
from .analysis.numeric import array_value
from .coverage import Loop, loops_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .explain import Explanation
    from .lowered import Lowered

# Okabe and Ito's colours, which differ for all kinds of colour vision, and in grey.
EMPTY, PARTIAL, FULL, LIVE = "#f2f1ee", "#e69f00", "#0072b2", "#1b1b1b"
MOST_ROWS = 400  # rows of tiles drawn; more would be thinner than a pixel
MOST_PARTS = 512
MOST_PAIRS = 1 << 15  # queries x keys up to which each live pair is drawn


class PictureError(AttncError):
    """A picture that cannot be drawn."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pairs, in the order in which the kernel walks tokens."""

    query: int
    rows: int
    key: int
    keys: int
    loop: Loop
    env: Mapping[str, int]  # the grid point
    rows_from: int  # first row and key as the kernel names them
    keys_from: int

    @property
    def kind(self) -> str:
        return self.loop.kind


@dataclass(frozen=True)
class Layout:
    """Everything to draw: boxes, the number of queries and keys, and where each part of the tokens begins."""

    boxes: list[Box]
    queries: int
    keys: int
    parts: list[tuple[int, int]]
    split: str  # the grid dimensions that make the parts, empty when there is one


def tile_map(
    kernel: Lowered | tile.KernelOp,
    sizes: Mapping[str, int] | None = None,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    batch: Mapping[str, int] | None = None,
) -> Figure:
    """Draw the tile map of a kernel, or of every kernel of a lowered function, into a .png or .svg file.

    ``sizes`` defaults to those that the function was lowered with.  Batch entries and heads that differ are drawn
    for the first one, or for those in ``batch``, such as ``{"h": 3}``.
    """
    pyplot = _pyplot()
    kernels, env, words = _kernels(kernel, sizes)
    figure, axes = pyplot.subplots(
        1, len(kernels), figsize=(7.2 * len(kernels), 7.8), squeeze=False, layout="constrained"
    )
    for axis, one, text in zip(axes[0], kernels, words, strict=True):
        missing = [n for n in one.size_names if n not in env]
        if missing:
            pyplot.close(figure)
            raise PictureError(
                f"tile_map of {one.sym_name.data}: no value for {', '.join(missing)}; pass sizes={{...}}"
            )
        _draw(axis, one, layout(one, env, batch or {}), title or text)
    if path is not None:
        _save(figure, Path(path))
        pyplot.close(figure)
    return figure


def explanation_figure(e: Explanation, lowered: Lowered | None, path: str | Path | None = None) -> Figure:
    """The tile map of every kernel of an explained function, and the roofline."""
    pyplot = _pyplot()
    kernels, _, words = _kernels(lowered, e.sizes) if lowered is not None else ([], {}, [])
    count = len(kernels) + 1
    figure, axes = pyplot.subplots(1, count, figsize=(7.2 * count, 7.8), squeeze=False, layout="constrained")
    for axis, one, text in zip(axes[0], kernels, words, strict=False):
        _draw(axis, one, layout(one, e.sizes, {}), text)
    _draw_roofline(axes[0][-1], e)
    if path is not None:
        _save(figure, Path(path))
        pyplot.close(figure)
    return figure


def _draw_roofline(axis: Axes, e: Explanation) -> None:
    roof = e.roofline
    points = [(k.name, k.flops / k.bytes, k.flops / k.seconds) for k in e.kernels if k.bytes and k.seconds]
    intensities = [roof.ridge, *(x for _, x, _ in points)]
    xs = np.geomspace(min(intensities) / 4, max(intensities) * 4, 64)
    axis.loglog(xs, np.minimum(roof.peak, xs * roof.bandwidth), color=FULL, label=f"one core of {roof.device}")
    for name, intensity, rate in points:
        axis.plot([intensity], [rate], "o", color=PARTIAL, markeredgecolor=LIVE)
        axis.annotate(name, (intensity, rate), xytext=(6, -12), textcoords="offset points", fontsize=9)
    axis.set(xlabel="floating-point operations for each byte moved", ylabel="operations a second, predicted")
    axis.set_title(f"{e.name}, {e.dtype}: {roof.bound_by} is the limit", fontsize=11.5, fontweight="bold", loc="left")
    axis.grid(color="#d9d6cf", linewidth=0.5)
    axis.legend(frameon=False, fontsize=9)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise PictureError(
            "pictures need matplotlib: pip install 'attnc[pictures]', or pip install matplotlib"
        ) from None
    if not matplotlib.get_backend().lower().startswith(("module", "webagg", "nbagg")):
        matplotlib.use("agg", force=False)
    from matplotlib import pyplot

    return pyplot


def _save(figure: Figure, path: Path) -> None:
    known = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in known:
        raise PictureError(f"cannot draw {path}: its name must end in .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise PictureError(f"cannot write {path}: there is no folder {path.parent}")
    # Without a date the same picture is the same bytes.
    figure.savefig(
        path, dpi=160, bbox_inches="tight", pad_inches=0.15, metadata={"Date": None} if path.suffix == ".svg" else None
    )


def _kernels(
    subject: Lowered | tile.KernelOp, sizes: Mapping[str, int] | None
) -> tuple[list[tile.KernelOp], dict[str, int], list[str]]:
    """Kernels, sizes, and a title for each kernel."""
    if isinstance(subject, tile.KernelOp):
        return [subject], dict(sizes or {}), [subject.sym_name.data]
    from .wording import in_words

    hints = {k: int(v) for k, v in subject.hints.items()}
    func = attn.func_of(subject.module("attn"))
    attends = [op for op in func.body.block.ops if isinstance(op, attn.AttendOp)]
    kernels = list(tile.kernels_of(subject.module("tile")).values())
    if not kernels:
        raise PictureError(f"{func.sym_name.data} has no kernel to draw: nothing of it was fused")
    words = [" + ".join(in_words(s.mask, a.domain[-1].name, s.key) for s in a.source_list) for a in attends]
    return kernels, {**hints, **(sizes or {})}, [f"{func.sym_name.data}: {w}" for w in words]


def layout(kernel: tile.KernelOp, sizes: Mapping[str, int], batch: Mapping[str, int]) -> Layout:
    """Rectangles of one batch entry and head.

    Grid dimensions that split the tokens (residue classes, blocks) are laid out one after the other, and so are
    sources of keys.
    """
    task, rows, loops = _tile_count(kernel), kernel.rows.data, loops_of(kernel)
    split = _splitting(kernel)
    found: list[Box] = []
    parts: list[tuple[int, int]] = []
    query, key = 0, 0
    if (count := math.prod(int(evaluate(d.extent, sizes)) for d in split)) > MOST_PARTS:
        raise PictureError(f"{kernel.sym_name.data} works on {count:,} separate parts; give smaller sizes to see some")
    for point in _points(split, sizes):
        env = {**{d.name: 0 for d in kernel.grid.data}, **sizes, **batch, **point}
        bound = int(evaluate(rows.bound, env))
        tasks = np.arange(-(-bound // rows.size))
        ends = [_ends(loop, {**env, task.name: tasks}, len(tasks)) for loop in loops]
        starts, width = _columns(loops, ends)
        for loop, start, ranges in zip(loops, starts, ends, strict=True):
            for lo, hi in ranges:
                for n in np.flatnonzero(hi > lo):
                    top, left = int(n) * rows.size, int(lo[n])
                    height = min(rows.size, bound - top)
                    here = {**env, task.name: int(n)}
                    found.append(Box(query + top, height, key + start + left, int(hi[n]) - left, loop, here, top, left))
        parts.append((query, key))
        query, key = query + bound, key + width
    return Layout(found, query, key, parts, ", ".join(d.name for d in split))


def _tile_count(kernel: tile.KernelOp) -> Dim:
    """The grid dimension that counts tiles of rows."""
    names = free_vars(kernel.rows.data.base)
    return next(d for d in kernel.grid.data if d.name in names)


def _splitting(kernel: tile.KernelOp) -> list[Dim]:
    """Grid dimensions that take part in the address of a token, together with the row."""
    row = kernel.rows.data.name
    stores = [op for op in kernel.body.walk() if isinstance(op, tile.StoreOp)]
    names = set().union(*(free_vars(e) for op in stores for e in op.index.data if row in free_vars(e)))
    return [d for d in kernel.grid.data if d.name in names and d is not _tile_count(kernel)]


def _points(dims: list[Dim], sizes: Mapping[str, int]) -> list[dict[str, int]]:
    points: list[dict[str, int]] = [{}]
    for d in dims:
        points = [{**p, d.name: x} for p in points for x in range(int(evaluate(d.extent, sizes)))]
    return points


def _ends(loop: Loop, env: Mapping[str, Any], count: int) -> list[tuple[Any, Any]]:
    """Both ends of each range of a loop, for all tasks."""
    return [
        (np.broadcast_to(array_value(r.lo, env), count), np.broadcast_to(array_value(r.hi, env), count))
        for r in loop.ranges
    ]


def _columns(loops: list[Loop], ends: list[list[tuple[Any, Any]]]) -> tuple[list[int], int]:
    """First column of each loop's source, and the width of all sources."""
    widths: dict[str, int] = {}
    for loop, ranges in zip(loops, ends, strict=True):
        reached = [int(hi.max()) for _, hi in ranges if hi.size]
        widths[loop.key_memory] = max([widths.get(loop.key_memory, 0), *reached])
    starts, total = {}, 0
    for name, width in widths.items():
        starts[name], total = total, total + width
    return [starts[x.key_memory] for x in loops], total


# ---- drawing ----------------------------------------------------------------------------------------------


def _draw(axis: Axes, kernel: tile.KernelOp, drawn: Layout, title: str) -> None:
    from matplotlib.patches import Patch

    queries, keys, rows = max(drawn.queries, 1), max(drawn.keys, 1), kernel.rows.data.size
    axis.set_facecolor(EMPTY)
    _tiles(axis, drawn, rows)
    live = queries * keys <= MOST_PAIRS and not any(loads(b.loop.mask) for b in drawn.boxes)
    if live:
        _live_pairs(axis, kernel, drawn)
    for query, key in drawn.parts[1:] if len(drawn.parts) <= 64 else ():
        axis.axhline(query, color="#8c8a84", linewidth=0.5, linestyle=(0, (2, 3)))
        axis.axvline(key, color="#8c8a84", linewidth=0.5, linestyle=(0, (2, 3)))
    order = f", in {len(drawn.parts)} parts by {drawn.split}" if drawn.split else ""
    axis.set(xlim=(0, keys), ylim=(queries, 0), xlabel=f"key{order}", ylabel=f"query{order}")
    axis.set_aspect("equal" if 0.2 <= keys / queries <= 5 else "auto")
    axis.spines[:].set_color("#8c8a84")
    axis.tick_params(color="#8c8a84")
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_formatter("{x:,.0f}")
    steps = sorted({b.loop.step for b in drawn.boxes})
    area = sum(b.rows * b.keys for b in drawn.boxes) / (queries * keys)
    facts = (
        f"{drawn.queries:,} queries x {drawn.keys:,} keys, tiles of {rows} x {' or '.join(map(str, steps)) or '?'}, "
    )
    axis.set_title(textwrap.fill(title, 64), fontsize=11.5, fontweight="bold", loc="left", pad=24)
    axis.text(0, 1.012, f"{facts}{100 * area:.3g} % computed", transform=axis.transAxes, fontsize=9, color="#55534e")
    handles = [
        Patch(facecolor=FULL, label="full: every pair live"),
        Patch(facecolor=PARTIAL, label="partial: masked"),
        Patch(facecolor=EMPTY, edgecolor="#b5b2aa", label="empty: never touched"),
    ]
    if live:
        handles.append(Patch(facecolor=LIVE, label="live, in a partial tile"))
    axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, frameon=False, fontsize=9)


def _tiles(axis: Axes, drawn: Layout, rows: int) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    thin = max(1, -(-drawn.queries // rows // MOST_ROWS))
    few = drawn.queries // rows <= 80  # then each step of a loop is outlined
    for kind, colour in (("partial", PARTIAL), ("full", FULL)):
        patches = [
            Rectangle((b.key + x, b.query), min(b.loop.step, b.keys - x) if few else b.keys, b.rows * thin)
            for b in drawn.boxes
            if b.kind == kind and b.rows_from // rows % thin == 0
            for x in (range(0, b.keys, b.loop.step) if few else (0,))
        ]
        edge: dict[str, Any] = (
            {"edgecolor": "white", "linewidth": 0.6} if few else {"edgecolor": colour, "linewidth": 0.3}
        )
        axis.add_collection(PatchCollection(patches, facecolor=colour, **edge))


def _live_pairs(axis: Axes, kernel: tile.KernelOp, drawn: Layout) -> None:
    """A dot for each live pair of the partial tiles."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    row, dots = kernel.rows.data.name, []
    for b in drawn.boxes:
        if b.kind != "partial":
            continue
        i, j = np.arange(b.rows_from, b.rows_from + b.rows)[:, None], np.arange(b.keys_from, b.keys_from + b.keys)
        live = array_value(b.loop.mask, {**b.env, row: i, b.loop.axis: j})
        dots += [
            Rectangle((b.key + x + 0.3, b.query + y + 0.3), 0.4, 0.4)
            for y, x in np.argwhere(np.broadcast_to(live, (b.rows, b.keys)))
        ]
    axis.add_collection(PatchCollection(dots, facecolor=LIVE, edgecolor="none"))
