"""Patches of an image, and the boxes of tokens that they see: a change of variables of pairs.

One side of the pairs, queries or keys, is *held*: a tile holds a patch of them.  The other side is *walked*: a box of
whole pieces of image rows that holds every token which the mask lets the patch see.  In images of 128 columns, patches
of 8 rows and 16 columns that see 6 in every direction::

    i < N                  -> y < (N // 128 + 7) // 8, x < 8, i < min(8, N // 128 - y * 8) * 16
    j < N under the mask   -> j < (rows that the patch sees) * 28

In a video there are three directions: patches of 2 x 8 x 8 tokens, say, and boxes of pieces of rows of pieces of
frames.  A direction that the mask does not limit is walked as a whole.

Both are proved: patches divide the image, every walked token has one place in the box, and the mask decides about the
rest.  Images are whole rows, and videos whole frames, which callers know.
"""

from __future__ import annotations

import math
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
from ..analysis.index_sets import NO_FULL, implies, tile_ranges
from ..analysis.tiles import Tile
from .common import facts_about

SAMPLES = 64
# by how many tokens they hold, in images and in volumes
SHAPES: dict[int, tuple[tuple[int, ...], ...]] = {
    128: ((8, 16), (16, 8), (4, 32), (2, 8, 8), (4, 4, 8), (8, 4, 4), (1, 8, 16)),
    64: ((8, 8), (4, 16), (4, 4, 4), (2, 4, 8), (1, 8, 8)),
    32: ((4, 8), (2, 16), (2, 4, 4), (1, 4, 8)),
    16: ((4, 4), (2, 8), (2, 2, 4), (1, 4, 4)),
}
NAMES = "z", "y", "x"  # of the dimensions that count patches, outermost first
_HELD, _WALKED = "_held{}", "_walked{}"  # parts of tokens, by their place


@dataclass(frozen=True)
class Box:
    """The tokens that a patch sees: the dimension that walks them, and what they are."""

    dim: Dim
    parts: Mapping[Expr, Expr]  # parts of the tokens of both sides, by names
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


def whole_images(extents: Sequence[Expr], inner: tuple[int, ...]) -> list[Expr]:
    """That there are whole rows, or planes, of ``inner`` tokens, which :func:`patches` relies on."""
    return list(dict.fromkeys(eq(op("%", e, Const(math.prod(inner))), Const(0)) for e in extents))


def patches(
    domain: Sequence[Dim],
    walked: Sequence[tuple[Dim, Expr]],
    inner: tuple[int, ...],
    size: tuple[int, ...],
    names: tuple[str, ...],
    facts: tuple[Expr, ...],
) -> Patches | None:
    """The last dimension of ``domain`` in patches of ``size``; None where boxes have no form.

    ``inner`` are the sizes of an image but for the outermost.  ``walked`` are dimensions with the masks between them
    and the held one; ``names`` are those of the dimensions that count patches, outermost first.
    """
    *batch, token = domain
    counts = [divmod(n, s) for n, s in zip(inner, size[1:], strict=True)]
    if free_vars(token.extent) & {d.name for d in batch} or any(rest for _, rest in counts):
        return None
    planes = facts_about(batch, facts, [token.extent]).simplify(token.extent // math.prod(inner))
    first = [Var(name) * s for name, s in zip(names, size, strict=True)]
    held = Dim(token.name, minimum(Const(size[0]), planes - first[0]) * math.prod(size[1:]))
    extents = ceildiv(planes, size[0]), *(Const(count) for count, _ in counts)
    by_patch = (*batch, *(Dim(n, e) for n, e in zip(names, extents, strict=True)), held)
    places = [start + part for start, part in zip(first, _taken_apart(Var(token.name), size[1:]), strict=True)]
    axes = [
        Axis(_HELD.format(n), start, s, bound)
        for n, (start, s, bound) in enumerate(zip(first, size, (planes, *map(Const, inner)), strict=True))
    ]
    boxes = []
    for other, mask in walked:
        box = _boxed(other, mask, token.name, inner, axes, places, by_patch, facts)
        if box is None:
            return None
        boxes.append(box)
    return Patches(by_patch, {token.name: _together(places, inner)}, tuple(boxes))


def _taken_apart(token: Expr, inner: Sequence[int]) -> list[Expr]:
    """The place of a token in each direction, outermost first."""
    found = []
    for n in range(len(inner) + 1):
        weight = math.prod(inner[n:])
        part = token // weight if weight > 1 else token
        found.append(part % inner[n - 1] if n else part)
    return found


def _together(places: Sequence[Expr], inner: Sequence[int]) -> Expr:
    """The token at a place."""
    token = places[0]
    for place, size in zip(places[1:], inner, strict=True):
        token = token * size + place
    return token


def _boxed(
    other: Dim,
    mask: Expr,
    token: str,
    inner: tuple[int, ...],
    axes: Sequence[Axis],
    places: Sequence[Expr],
    domain: Sequence[Dim],
    facts: tuple[Expr, ...],
) -> Box | None:
    batch, tokens = tuple(domain[:-1]), (token, other.name)
    names = [[form.format(n) for n in range(len(axes))] for form in (_HELD, _WALKED)]
    parts: dict[Expr, Expr] = {}
    for side, of in zip(tokens, names, strict=True):
        parts |= zip(_taken_apart(Var(side), inner), map(Var, of), strict=True)
        if len(inner) > 1:  # x % 6144 // 128 is x // 128 % 48
            parts[Var(side) % math.prod(inner) // inner[-1]] = Var(of[-2])
    mask = rewrite(mask, parts.get)
    extents = other.extent // math.prod(inner), *map(Const, inner)
    keys = [Dim(name, extent) for name, extent in zip(names[1], extents, strict=True)]
    touched = [_touched(mask, tokens, axis, key, batch, facts) for axis, key in zip(axes, keys, strict=True)]
    if sum(r is not None for r in touched) < 2:
        return None
    known = facts_about(batch, facts, [other.extent])
    first: list[Expr] = []  # a box within the image: all its tokens exist
    most: list[int] = []
    for size, r in zip(inner, touched[1:], strict=True):
        length = min(size, _most(r.hi - r.lo, batch)) if r else size
        if length < 1 or (r and length < size and not implies(TRUE, op("<=", r.hi - r.lo, length), batch, facts)):
            return None
        first.append(known.simplify(maximum(minimum(r.lo, size - length), 0)) if r and length < size else Const(0))
        most.append(length)
    if 2 * math.prod(most) > math.prod(inner):
        return None
    top, bottom = (touched[0].lo, touched[0].hi) if touched[0] else (Const(0), extents[0])
    box = [start + part for start, part in zip((top, *first), _taken_apart(Var(other.name), most), strict=True)]
    now = dict(zip((*names[0], *names[1]), (*places, *box), strict=True))
    now |= {token: _together(places, inner), other.name: _together(box, inner)}
    extent = known.simplify(maximum(bottom - top, 0) * math.prod(most))
    return Box(Dim(other.name, extent), parts, now)


def _touched(
    mask: Expr, tokens: tuple[str, str], rows: Axis, key: Dim, batch: Sequence[Dim], facts: tuple[Expr, ...]
) -> Range | None:
    """Where the walked side is seen in one direction, by the conditions that are about this direction alone."""
    inner = {form.format(n) for form in (_HELD, _WALKED) for n in range(len(NAMES))} | set(tokens)
    known = {rows.name, key.name} | {d.name for d in batch}
    own = [c for c in conjuncts(mask) if free_vars(c) & inner <= known and not loads(c)]
    if not any(key.name in free_vars(c) for c in own):
        return None
    found = tile_ranges(Tile(tuple(batch), rows, key, all_of(own), facts), NO_FULL).all
    if not found:
        return None
    return Range(minimum(*(r.lo for r in found)), maximum(*(r.hi for r in found)))


def _most(length: Expr, batch: Sequence[Dim]) -> int:
    """The largest length of a range, from samples: whoever relies on it proves it."""
    sizes = free_vars(length).union(*(free_vars(d.extent) for d in batch))
    env: dict[str, int] = dict.fromkeys(sorted(sizes), SAMPLES * 64)
    counts = {d.name: int(evaluate(d.extent, env)) for d in batch}
    return max(
        int(evaluate(length, env | {name: min(k, count - 1) for name, count in counts.items()})) for k in range(SAMPLES)
    )
