"""Several small groups in one tile: as many as fit the tile that one of them takes anyway.

before, for groups of 8 tokens::

    attn.attend over "b < B, h < H, g < G, i < 8" query %q "b, h, g, i, d"
      source "j < 8" key %k "b, h, g, j, d" ... mask "True"

after, under the guard ``G % 2 == 0``::

    attn.attend over "b < B, h < H, g < G // 2, i < 16" query %q "b, h, g * 2 + i // 8, i % 8, d"
      source "j < 16" key %k "b, h, g * 2 + j // 8, j % 8, d" ... mask "i // 8 == j // 8"

A matrix unit computes 16 rows and 16 keys at least, and powers of two beyond.  Groups that leave half of that empty, of
up to 8 tokens, cost the half, or a quarter.  Larger ones have tiles of their own: two windows of 49 in a tile of 128
would compute twice the pairs of two tiles of 64, those between the windows.

Any dimension of the batch will do, other heads as well as other groups, if the call at hand divides it.  Where heads
share their keys, ``few-rows`` knows better.

Legality: a change of variables of rows and of keys, one to one, under the guard; the mask keeps groups apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.expr import Const, Expr, Lambda, Var, eq, evaluate, free_vars, op, substitute
from ..analysis.cost import choose_tiles, device
from ..analysis.injective import reach
from ..analysis.space import padded
from .common import change_attends, facts_about, moved_maps, work_of
from .rewriting import replace as replace_op


@dataclass(frozen=True)
class PackGroups(ModulePass):
    """Options: ``target`` is the device; ``names`` and ``values`` are the sizes of the call at hand."""

    name = "pack-groups"
    target: str = "sm_90"
    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()

    def apply(self, ctx: Context, module: ModuleOp) -> None:
        sizes = dict(zip(self.names, self.values, strict=True))
        if not sizes or not device(self.target).is_gpu:
            return
        change_attends(module, lambda attend, facts: self._change(attend, facts, sizes))

    def _change(self, attend: attn.AttendOp, facts: tuple[Expr, ...], sizes: Mapping[str, int]) -> list[Expr]:
        """Rewrite one attention if that pays; the guards that it then relies on."""
        found = _divided(attend, sizes) if attend.tiles is None and not _shares_keys(attend, facts) else None
        if found is None:
            return []
        guard, changes = found[2], _packed(attend, *found, facts)
        before = work_of(attend, facts)
        after = replace(before, domain=changes["dims"], sources=changes["sources"])
        if choose_tiles(after, self.target) != choose_tiles(before, self.target):  # else there are fewer tasks
            return []
        replace_op(attend, attend.rebuilt(**changes))
        return [] if facts_about(attend.domain, facts).always(guard) else [guard]


def _divided(attend: attn.AttendOp, sizes: Mapping[str, int]) -> tuple[Dim, int, Expr] | None:
    """A dimension of the batch, how many of its points make one, and the guard that it has whole such numbers."""
    *batch, row = attend.domain
    tokens = [_constant(row.extent), *(_constant(s.extent) for s in attend.source_list)]
    if not all(tokens) or tokens[0] == 1:
        return None
    for many in range(min(padded(n) // n for n in tokens), 1, -1):
        for dim in _even(batch):
            if free_vars(dim.extent) <= sizes.keys() and int(evaluate(dim.extent, sizes)) % many == 0:
                return dim, many, eq(op("%", dim.extent, Const(many)), Const(0))
    return None


def _constant(extent: Expr) -> int:
    return int(extent.value) if isinstance(extent, Const) else 0


def _even(batch: list[Dim]) -> Iterator[Dim]:
    """Dimensions that no other one has to do with, the innermost first."""
    names = {d.name for d in batch}
    for dim in reversed(batch):
        if not free_vars(dim.extent) & names and not any(dim.name in free_vars(d.extent) for d in batch):
            yield dim


def _shares_keys(attend: attn.AttendOp, facts: tuple[Expr, ...]) -> bool:
    """May two points of the batch, such as heads of a group, have a key in common?"""
    *batch, _ = attend.domain
    for s, key in zip(attend.source_list, attend.keys, strict=True):
        dims = (*batch, Dim(s.key, s.extent))
        found = reach(s.key_map, dims, tuple(attn.tensor_type(key).shape), facts)
        if not found.determined >= {d.name for d in batch}:
            return True
    return False


def _packed(attend: attn.AttendOp, dim: Dim, many: int, guard: Expr, facts: tuple[Expr, ...]) -> dict[str, Any]:
    """What changes when ``many`` points of ``dim`` become one."""
    *batch, row = attend.domain
    known = facts_about(batch, (*facts, guard))
    fewer = [replace(d, extent=known.simplify(d.extent // many)) if d == dim else d for d in batch]
    domain = (*fewer, replace(row, extent=row.extent * many))
    rows = _split(row, dim, many)
    sources = []
    for s in attend.source_list:
        keys, key = _split(Dim(s.key, s.extent), dim, many), Dim(s.key, s.extent * many)
        inside = facts_about((*domain, key), (*facts, guard))
        pairs = {s.key: keys[s.key], **rows}
        same = eq(Var(row.name) // row.extent, Var(s.key) // s.extent)
        key_map, value_map = (tuple(inside.simplify(substitute(e, keys)) for e in m) for m in (s.key_map, s.value_map))
        mask = inside.simplify(op("and", same, substitute(s.mask, pairs)))
        score = Lambda(s.score.params, inside.simplify(substitute(s.score.body, pairs)))
        sources.append(attn.Source(s.key, key.extent, key_map, value_map, mask, score))
    return {"dims": domain, "sources": tuple(sources), **moved_maps(attend, domain, rows, (*facts, guard))}


def _split(tokens: Dim, dim: Dim, many: int) -> dict[str, Expr]:
    """The token and the point of ``dim`` that a token of a packed group is."""
    token = Var(tokens.name)
    return {tokens.name: token % tokens.extent, dim.name: Var(dim.name) * many + token // tokens.extent}
