"""A tile of (query, key) pairs, and the answer to which of its keys are live."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.attributes import Dim
from ...ir.expr import ZERO, Expr, minimum
from ...ir.tile import Axis, Range


@dataclass(frozen=True, slots=True)
class KeyRanges:
    """The keys of a tile: no two ranges overlap, each lies in ``[0, extent)`` or is empty, order has no meaning."""

    full: tuple[Range, ...]
    partial: tuple[Range, ...]

    @property
    def all(self) -> tuple[Range, ...]:
        return self.full + self.partial


@dataclass(frozen=True, slots=True)
class Wanted:
    """What full ranges are worth having: not those that never reach ``width`` keys.

    With ``align`` they shrink to multiples of it where that is a constant shift, so that a loop in steps of ``align``
    has no odd ends.
    """

    width: int = 1
    align: int = 1


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of pairs: rows ``[base, min(base + size, bound))`` at every point of ``batch``, and the keys."""

    batch: tuple[Dim, ...]
    rows: Axis
    key: Dim
    mask: Expr
    facts: tuple[Expr, ...] = ()

    @property
    def end(self) -> Expr:
        return minimum(self.rows.base + self.rows.size, self.rows.bound)

    @property
    def whole(self) -> Range:
        return Range(ZERO, self.key.extent)
