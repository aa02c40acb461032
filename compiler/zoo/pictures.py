"""A small picture of what the queries of a system see: its live pairs at small sizes.

Drawn from the index sets of every attention of a function: a pixel is a pair of a query and a key in the order of
their tensors, so that windows, rolls and permutations show as what they are.  The PNG is written here, byte by
byte: the same pattern is the same file wherever it is drawn.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir import attn
from ...ir.expr import Expr, evaluate, free_vars, loads
from ..analysis.numeric import array_value

if TYPE_CHECKING:
    from ..lowered import Lowered

# empty, then live pairs of each source of one softmax, then what depends on data; Okabe and Ito's colours
COLOURS = ((0xF2, 0xF1, 0xEE), (0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73), (0xCC, 0x79, 0xA7),
           (0x56, 0xB4, 0xE9), (0xD5, 0x5E, 0x00), (0xB8, 0xB5, 0xAC), (0xFF, 0xFF, 0xFF))  # fmt: skip
SOURCES, UNKNOWN, PAPER = 6, 7, 8
EDGE, MOST_EDGE, GAP = 120, 240, 6  # pixels of a panel, and between panels
MOST_PANELS = 8
MOST_POINTS = 1 << 10
Grid = np.ndarray[Any, np.dtype[np.uint8]]


def picture(lowered: list[Lowered]) -> bytes:
    """All attentions of some lowered functions, side by side, as a PNG."""
    panels = []
    for one in lowered:
        module = one.module("attn")
        sizes = {k: int(v) for k, v in one.hints.items()}
        panels += [panel(op, sizes) for op in attn.func_of(module).body.block.ops if isinstance(op, attn.AttendOp)]
    return png(_side_by_side([_scaled(p) for p in panels[:MOST_PANELS]]))


def panel(op: attn.AttendOp, sizes: Mapping[str, int]) -> Grid:
    """Live pairs of one attention: queries down, keys to the right, one colour for each source."""
    row = op.domain[-1].name
    asks = [e for e in op.query_map.data if row in free_vars(e)] or [e for e in op.out_map.data if row in free_vars(e)]
    parts = []
    for number, source in enumerate(op.source_list):
        seen = [e for e in source.key_map if source.key in free_vars(e)]
        seen = seen or [e for e in source.value_map if source.key in free_vars(e)]
        split = [d for d in op.domain[:-1] if any(d.name in free_vars(e) for e in (*asks, *seen))]
        # heads that differ are laid over each other
        shown = [d for d in op.domain[:-1] if d in split or d.name in free_vars(source.mask)]
        parts.append(_source(op, source, number, asks, seen, [d.name for d in shown], sizes))
    rows = sorted(set().union(*(queries for queries, _, _ in parts)))
    place = {q: n for n, q in enumerate(rows)}
    grids = []
    for _, keys, pairs in parts:
        columns = {k: n for n, k in enumerate(sorted(keys))}
        grid = np.zeros((len(place), len(columns)), np.uint8)
        for q, k, colour in pairs:
            grid[place[q], columns[k]] = colour
        grids.append(grid)
    return np.concatenate(grids, 1) if grids else np.zeros((1, 1), np.uint8)


def _source(
    op: attn.AttendOp,
    source: attn.Source,
    number: int,
    asks: list[Expr],
    seen: list[Expr],
    shown: list[str],
    sizes: Mapping[str, int],
) -> tuple[set[Any], set[Any], list[tuple[Any, Any, int]]]:
    """Positions of queries and of keys, and the live pairs with their colours."""
    row, key = op.domain[-1], source.key
    i = np.arange(int(evaluate(row.extent, sizes)))[:, None]
    j = np.arange(int(evaluate(source.extent, sizes)))[None, :]
    known = not loads(source.mask)
    queries: set[Any] = set()
    keys: set[Any] = set()
    pairs: list[tuple[Any, Any, int]] = []
    ranges = [range(int(evaluate(d.extent, sizes))) for d in op.domain[:-1] if d.name in shown]
    names = [d.name for d in op.domain[:-1] if d.name in shown]
    for _, point in zip(range(MOST_POINTS), product(*ranges), strict=False):
        fixed = dict.fromkeys(("d", "e", *(d.name for d in op.domain)), 0)  # the first feature, and the first head
        env = {**sizes, **fixed, **dict(zip(names, point, strict=True)), row.name: i, key: j}
        live = np.broadcast_to(array_value(source.mask, env), (i.size, j.size)) if known else np.ones((i.size, j.size))
        at = [_positions(e, env, i.shape) for e in asks]
        to = [_positions(e, env, j.shape) for e in seen]
        q = list(zip(*(x[:, 0].tolist() for x in at), strict=True)) if at else [()] * i.size
        k = list(zip(*(x[0].tolist() for x in to), strict=True)) if to else [(n,) for n in range(j.size)]
        queries.update(q)
        keys.update(k)
        colour = 1 + number % SOURCES if known else UNKNOWN
        pairs += [(q[y], k[x], colour) for y, x in np.argwhere(live)]
    return queries, keys, pairs


def _positions(e: Expr, env: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    """Where a tensor is read; what depends on data is taken to be read in order."""
    if loads(e):
        return np.arange(int(np.prod(shape))).reshape(shape)
    return np.broadcast_to(array_value(e, env), shape)


def _scaled(grid: Grid) -> Grid:
    """Every pair as a square of pixels, or one of every few pairs."""
    most = max(grid.shape)
    if most > MOST_EDGE:
        step = -(-most // MOST_EDGE)
        rows, columns = (-(-n // step) for n in grid.shape)
        padded = np.zeros((rows * step, columns * step), np.uint8)
        padded[: grid.shape[0], : grid.shape[1]] = grid
        return padded.reshape(rows, step, columns, step).max((1, 3))
    return grid.repeat(times := max(EDGE // most, 1), 0).repeat(times, 1)


def _side_by_side(panels: list[Grid]) -> Grid:
    height = max((p.shape[0] for p in panels), default=1)
    width = sum(p.shape[1] + GAP for p in panels) - GAP if panels else 1
    page = np.full((height, width), PAPER, np.uint8)
    left = 0
    for p in panels:
        page[: p.shape[0], left : left + p.shape[1]] = p
        left += p.shape[1] + GAP
    return page


def png(page: Grid) -> bytes:
    """An image of palette indices as a PNG."""
    height, width = page.shape
    rows = b"".join(b"\0" + line.tobytes() for line in page)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", b"".join(bytes(c) for c in COLOURS)),
        (b"tRNS", b"\xff" * PAPER + b"\0"),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
