"""Patches of an image, and the boxes of tokens that they see: a change of variables of pairs.

One side of the pairs, queries or keys, is *held*: a tile holds a patch of them.  The other side is *walked*: a box of
whole pieces of image rows that holds every token which the mask lets the patch see.  In images of 128 columns, patches
of 8 rows and 16 columns that see 6 in every direction::

    i < N                  -> y < (N // 128 + 7) // 8, x < 8, i < min(8, N // 128 - y * 8) * 16
    j < N under the mask   -> j < (rows that the patch sees) * 28

Both are proved: patches divide the image, every walked token has one place in the box, and the mask decides about the
rest.  Images are whole rows, which callers know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.expr import (
    TRUE,
    Const,
    Expr,
    Var,
    all_of,
    ceildiv,
    conjuncts,
    eq,
    evaluate,
    free_vars,
    loads,
    maximum,
    minimum,
    op,
    rewrite,
    substitute,
)
from ...ir.simplify import Facts
from ...ir.tile import Axis, Range
from ..analysis.index_sets import implies, tile_ranges
from ..analysis.tiles import Tile
from .common import facts_about

SAMPLES = 64
_ROW, _COLUMN, _BOX_ROW, _BOX_COLUMN = "_row", "_column", "_box_row", "_box_column"


@dataclass(frozen=True)
class Box:
    """The tokens that a patch sees: the dimension that walks them, and what they are."""

    dim: Dim
    parts: Mapping[Expr, Expr]  # rows and columns of both sides, by names
    now: Mapping[str, Expr]  # those, and the tokens of both sides, in the new dimensions

    def moved(self, e: Expr, inside: Facts) -> Expr:
        """An expression about pairs in the new dimensions."""
        return inside.simplify(substitute(rewrite(e, self.parts.get), self.now))

    def source(self, s: attn.Source, domain: Sequence[Dim], extent: Expr, facts: tuple[Expr, ...]) -> attn.Source:
        """``s`` between a patch, the last dimension of ``domain``, and this box; ``extent`` is that of its keys."""
        inside = facts_about((*domain, self.dim), facts)
        key, value = (tuple(self.moved(e, inside) for e in m) for m in (s.key_map, s.value_map))
        score = replace(s.score, body=self.moved(s.score.body, inside))
        return attn.Source(s.key, extent, key, value, self.moved(s.mask, inside), score)


@dataclass(frozen=True)
class Patches:
    """The held side in patches: its domain, what its token is there, and a box for each walked side."""

    domain: tuple[Dim, ...]
    held: Mapping[str, Expr]
    boxes: tuple[Box, ...]


def whole_rows(extents: Sequence[Expr], width: int) -> list[Expr]:
    """That images consist of whole rows of ``width``, which :func:`patches` relies on."""
    return list(dict.fromkeys(eq(op("%", e, Const(width)), Const(0)) for e in extents))


def patches(
    domain: Sequence[Dim],
    walked: Sequence[tuple[Dim, Expr]],
    width: int,
    size: tuple[int, int],
    names: tuple[str, str],
    facts: tuple[Expr, ...],
) -> Patches | None:
    """The last dimension of ``domain`` in patches of ``size``; None where boxes have no form.

    ``walked`` are dimensions with the masks between them and the held one; ``names`` are those of the dimensions that
    count patches down and across.
    """
    *batch, token = domain
    high, wide = size
    if free_vars(token.extent) & {d.name for d in batch} or width % wide:
        return None
    y, x = map(Var, names)
    lines = facts_about(batch, facts, [token.extent]).simplify(token.extent // width)
    i = Var(token.name)
    held = Dim(token.name, minimum(Const(high), lines - y * high) * wide)
    by_patch = (*batch, Dim(y.name, ceildiv(lines, high)), Dim(x.name, Const(width // wide)), held)
    at = {_ROW: y * high + i // wide, _COLUMN: x * wide + i % wide}
    boxes = []
    for other, mask in walked:
        box = _boxed(other, mask, (token.name, lines, width), size, (y, x), by_patch, at, facts)
        if box is None:
            return None
        boxes.append(box)
    return Patches(by_patch, {token.name: at[_ROW] * width + at[_COLUMN]}, tuple(boxes))


def _boxed(
    other: Dim,
    mask: Expr,
    image: tuple[str, Expr, int],
    size: tuple[int, int],
    patch: tuple[Var, Var],
    domain: Sequence[Dim],
    at: Mapping[str, Expr],
    facts: tuple[Expr, ...],
) -> Box | None:
    name, lines, width = image
    i, j, by = Var(name), Var(other.name), Const(width)
    parts = {i // by: Var(_ROW), i % by: Var(_COLUMN), j // by: Var(_BOX_ROW), j % by: Var(_BOX_COLUMN)}
    mask = rewrite(mask, parts.get)
    batch, (y, x) = tuple(domain[:-1]), patch
    down = Axis(_ROW, y * size[0], size[0], lines), Dim(_BOX_ROW, other.extent // width)
    across = Axis(_COLUMN, x * size[1], size[1], by), Dim(_BOX_COLUMN, by)
    ranges = [_touched(mask, (name, other.name), axis, key, batch, facts) for axis, key in (down, across)]
    if ranges[0] is None or ranges[1] is None:
        return None
    (top, bottom), (left, right) = ((r.lo, r.hi) for r in ranges if r)
    most = min(width, _most(right - left, patch))
    if most < 1 or most > width // 2 or not implies(TRUE, op("<=", right - left, most), batch, facts):
        return None
    known = facts_about(batch, facts, [other.extent])
    first = known.simplify(maximum(minimum(left, width - most), 0))  # a box within the image: all its tokens exist
    row, column = top + j // most, first + j % most
    now = {**at, _BOX_ROW: row, _BOX_COLUMN: column}
    now |= {name: at[_ROW] * width + at[_COLUMN], other.name: row * width + column}
    return Box(Dim(other.name, known.simplify(maximum(bottom - top, 0) * most)), parts, now)


def _touched(
    mask: Expr, tokens: tuple[str, str], rows: Axis, key: Dim, batch: Sequence[Dim], facts: tuple[Expr, ...]
) -> Range | None:
    """The rows (or columns) of the walked side that a patch sees, by the conditions that are about them alone."""
    names = {_ROW, _COLUMN, _BOX_ROW, _BOX_COLUMN}
    known = {rows.name, key.name} | {d.name for d in batch}
    inner = names | set(tokens)
    own = [c for c in conjuncts(mask) if free_vars(c) & inner <= known and not loads(c)]
    if not any(key.name in free_vars(c) for c in own):
        return None
    found = tile_ranges(Tile(tuple(batch), rows, key, all_of(own), facts)).all
    if not found:
        return None
    return Range(minimum(*(r.lo for r in found)), maximum(*(r.hi for r in found)))


def _most(length: Expr, patch: tuple[Var, Var]) -> int:
    """The largest length of a range, from samples: whoever relies on it proves it."""
    names = sorted(free_vars(length))
    inner = {v.name for v in patch}
    return max(int(evaluate(length, {n: k if n in inner else SAMPLES * 64 for n in names})) for k in range(SAMPLES))
