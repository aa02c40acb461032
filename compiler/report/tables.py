"""The cost of a function as a table and a roofline, in HTML and SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..explain_text import percent, unit

if TYPE_CHECKING:
    from ..explain import Explanation

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 44


def cost(e: Explanation, backward: bool = False) -> str:
    """One row a kernel."""
    head = ("kernel", "tiles", "full", "partial", "empty", "computed", "live", "FLOP", "moved", "FLOP/B", "predicted")
    rows = [
        (
            k.name,
            f"{k.tiles[0]} x {k.tiles[1]}",
            f"{k.coverage.full:,}",
            f"{k.coverage.partial:,}",
            f"{k.coverage.empty:,}",
            percent(k.coverage.computed_pairs / k.pairs) if k.pairs else "",
            _live(k.live_pairs, k.pairs, k.exact),
            unit(k.flops, 1000, ""),
            unit(k.bytes, 1024, "B"),
            f"{k.flops / k.bytes:.3g}" if k.bytes else "",
            unit(k.seconds, 1000, "s"),
        )
        for k in e.kernels
    ]
    text = table(head, rows)
    if backward and e.backward.kernels:
        gradient = [
            (
                k.name,
                f"{k.tiles[0]} x {k.tiles[1]}",
                f"{k.coverage.full:,}",
                f"{k.coverage.partial:,}",
                f"{k.coverage.computed_pairs:,}",
                unit(k.flops, 1000, ""),
            )
            for k in e.backward.kernels
        ]
        text += "<h3>gradient</h3>" + table(("kernel", "tiles", "full", "partial", "pairs", "FLOP"), gradient)
    if e.eager_ops:
        eager = [(op.at, op.call, op.reason, unit(op.bytes, 1024, "B") if op.bytes else "") for op in e.eager_ops]
        text += "<h3>stays with PyTorch</h3>" + table(("line", "call", "why", "allocates"), eager)
    return text


def _live(live: int | None, pairs: int, exact: bool) -> str:
    if live is None:
        return "data decides"
    return ("" if exact else "about ") + (percent(live / pairs) if pairs else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML; columns of numbers are aligned to the right."""
    numeric = [bool(rows) and all(r[n][:1].isdigit() or not r[n] for r in rows) for n in range(len(head))]
    cells = [(' class="num"' if n else "") for n in numeric]
    top = "".join(f"<th{c}>{html.escape(h)}</th>" for h, c in zip(head, cells, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{html.escape(x)}</td>" for x, c in zip(row, cells, strict=True)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def roofline(e: Explanation) -> str:
    """The roof of one core, and each kernel under it as predicted."""
    if not e.kernels:
        return ""
    roof = e.roofline
    points = [(k.name, k.flops / k.bytes, k.flops / k.seconds) for k in e.kernels if k.bytes and k.seconds]
    xs = [roof.ridge, *(x for _, x, _ in points)]
    low, high = math.floor(math.log10(min(xs))) - 0.5, math.ceil(math.log10(max(xs))) + 0.5
    ys = [roof.peak, *(y for _, _, y in points), roof.bandwidth * 10**low]
    bottom, top = math.log10(min(ys)) - 0.3, math.log10(max(ys)) + 0.4

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (math.log10(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return round(across, 1), round(TOP + (top - math.log10(y)) / (top - bottom) * (HEIGHT - TOP - BOTTOM), 1)

    parts = []
    for n in range(math.ceil(low), math.floor(high) + 1):
        x, _ = at(10.0**n, roof.peak)
        parts.append(f'<path class="grid" d="M{x} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{10.0**n:g}</text>')
    for n in range(math.ceil(bottom), math.floor(top) + 1):
        _, y = at(1.0, 10.0**n)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{unit(10.0**n, 1000, "")}</text>')
    (x0, y0), (x1, y1), (x2, y2) = (
        at(10**low, roof.bandwidth * 10**low),
        at(roof.ridge, roof.peak),
        at(10**high, roof.peak),
    )
    parts.append(f'<path class="roof" d="M{x0} {y0}L{x1} {y1}L{x2} {y2}"/>')
    for name, intensity, rate in points:
        x, y = at(intensity, rate)
        parts.append(f'<circle class="point" cx="{x}" cy="{y}" r="5"><title>{html.escape(name)}</title></circle>')
        side, gap = ("end", -9) if x > WIDTH / 2 else ("start", 9)
        parts.append(f'<text x="{x + gap}" y="{y + 16}" text-anchor="{side}">{html.escape(name)}</text>')
    label = f"Roofline of {roof.device}: {unit(roof.peak, 1000, 'FLOP')}/s, {unit(roof.bandwidth, 1000, 'B')}/s"
    parts.append(
        f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">FLOP for each byte moved</text>'
    )
    parts.append(f'<text transform="translate(12 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">FLOP/s</text>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
