"""Do two elements of a tile have the same address?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...ir import poly
from ...ir.expr import Expr, Var, free_vars, loads
from ...ir.tile import StoreOp, tile_type


def injective(index: Sequence[Expr], axes: Iterable[str]) -> bool:
    """Certainly no two points of ``axes`` have the same index, whatever the other variables.

    An axis is known where an expression is a multiple of it plus something of axes that are known already.
    """
    unknown = set(axes)
    while unknown:
        found = next((a for e in index for a in unknown if _determines(e, a, unknown)), None)
        if found is None:
            return False
        unknown.remove(found)
    return True


def _determines(e: Expr, axis: str, unknown: set[str]) -> bool:
    if free_vars(e) & unknown != {axis} or any(free_vars(x) & unknown for x in loads(e)):
        return False
    parts = poly.split_linear(poly.of_expr(e), Var(axis))
    if parts is None or any(axis in free_vars(atom) for part in parts for atom in poly.atoms(part)):
        return False
    return bool(poly.constant_value(parts[0]))


def unused_axes(op: StoreOp) -> list[str]:
    """Axes of the stored tile along which the address stays the same."""
    used = set().union(*(free_vars(e) for e in op.index.data))
    return [a for a in tile_type(op.value).shape if a not in used]


def collides(op: StoreOp) -> bool:
    """May elements of the tile share an address, after sums over the axes that the address does not use?"""
    unused = unused_axes(op)
    return not injective(op.index.data, [a for a in tile_type(op.value).shape if a not in unused])
