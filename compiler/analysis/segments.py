"""Keys that a mask picks in blocks of fixed width: a few columns of each of a few image rows.

In ``abs(i // 64 - j // 64) <= 3 and abs(i % 64 - j % 64) <= 3`` some conditions are about the block of a key,
``j // 64``, others about its place there, ``j % 64``.  Each part is a problem of its own, over blocks and over places,
whose touched interval is known in closed form; the keys are the places of each block, one range a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ...ir.attributes import Dim
from ...ir.expr import (
    Const,
    Expr,
    Op,
    Var,
    all_of,
    ceildiv,
    conjuncts,
    evaluate,
    free_vars,
    loads,
    maximum,
    minimum,
    op,
    rewrite,
    walk,
)
from ...ir.tile import Range
from .tiles import KeyRanges, Tile

MOST_BLOCKS = 16  # ranges that are told apart; what is left is walked over
WORTHWHILE = 0.6  # the share of a block that may be touched
SAMPLES = 48
_BLOCK, _PLACE = "_block", "_place"


def segments(tile: Tile, touched: Callable[[Tile], KeyRanges]) -> KeyRanges | None:
    """One range for each touched block; None where blocks say nothing, or are touched as a whole."""
    for width in by_blocks(tile):
        parts = _parts(tile, width)
        found = [touched(part).all for part in parts] if parts else []
        if [len(ranges) for ranges in found] == [1, 1]:
            ((blocks,), (places,)) = found
            count = _count(tile, blocks, places, width)
            if count:
                return KeyRanges((), tuple(_range(tile, blocks, places, width, n, count) for n in range(count)))
    return None


def by_blocks(tile: Tile) -> list[int]:
    """The widths of blocks in which the mask may pick keys."""
    return widths([tile.mask], lambda x: isinstance(x, Var) and x.name == tile.key.name)


def widths(masks: Iterable[Expr], is_token: Callable[[Expr], bool]) -> list[int]:
    """Constants by which masks both divide and reduce a token."""
    found: dict[str, set[int]] = {"//": set(), "%": set()}
    for e in (e for mask in masks for e in walk(mask)):
        match e:
            case Op("//" | "%" as name, (x, Const(int() as c))) if c > 1 and is_token(x):
                found[name].add(c)
    return sorted(found["//"] & found["%"])


def images(masks: Sequence[Expr], is_token: Callable[[Expr], bool]) -> list[tuple[int, ...]]:
    """How masks take a token apart, as the sizes of its inner parts: rows of 128 are ``(128,)``, and volumes of 48 such
    rows, whose parts are ``x // 6144``, ``x // 128 % 48`` and ``x % 128``, are ``(48, 128)``.  Deepest first.
    """
    lines = widths(masks, is_token)
    volumes: set[tuple[int, int]] = set()
    for e in (e for mask in masks for e in walk(mask)):
        match e:
            case Op("%", (Op("//", (x, Const(int() as width))), Const(int() as high))) if is_token(x):
                volumes.add((high, width))
            case Op("//", (Op("%", (x, Const(int() as plane))), Const(int() as width))) if is_token(x):
                volumes.add((plane // width, width) if width > 0 and plane % width == 0 else (1, 1))
    return [*sorted(v for v in volumes if min(v) > 1), *((width,) for width in lines)]


def _parts(tile: Tile, width: int) -> tuple[Tile, Tile] | None:
    """The problem over blocks and the one over places; conditions on both at once are left out."""
    key, by = Var(tile.key.name), Const(width)
    split = {op("//", key, by): Var(_BLOCK), op("%", key, by): Var(_PLACE)}
    of: dict[str, list[Expr]] = {_BLOCK: [], _PLACE: []}
    for condition in conjuncts(tile.mask):
        e = rewrite(condition, split.get)
        used = free_vars(e) & {_BLOCK, _PLACE, tile.key.name}
        if len(used) == 1 and not loads(e) and (name := min(used)) in of:
            of[name].append(e)
    if not (of[_BLOCK] and of[_PLACE]):
        return None
    extents = Dim(_BLOCK, ceildiv(tile.key.extent, width)), Dim(_PLACE, by)
    return tuple(replace(tile, key=d, mask=all_of(of[d.name])) for d in extents)  # type: ignore[return-value]


def _count(tile: Tile, blocks: Range, places: Range, width: int) -> int:
    """How many blocks to tell apart, from samples: an estimate will do, for the last range takes the rest."""
    names = set().union(*(free_vars(e) for r in (blocks, places) for e in (r.lo, r.hi)))
    inner = {d.name for d in tile.batch} | free_vars(tile.rows.base)
    most = widest = 0
    for n in range(SAMPLES):
        env = {name: n if name in inner else 2 * SAMPLES * width for name in names}
        most = max(most, int(evaluate(blocks.hi, env)) - int(evaluate(blocks.lo, env)))
        widest = max(widest, int(evaluate(places.hi, env)) - int(evaluate(places.lo, env)))
    return most if most <= MOST_BLOCKS and widest <= WORTHWHILE * width else 0


def _range(tile: Tile, blocks: Range, places: Range, width: int, n: int, count: int) -> Range:
    block = blocks.lo + n
    last = maximum(blocks.hi - 1, block) if n == count - 1 else block
    lo = block * width + places.lo
    hi = minimum(last * width + places.hi, tile.key.extent)
    return Range(lo, op("where", op("<", block, blocks.hi), hi, lo))
