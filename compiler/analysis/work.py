"""An attention as the cost model sees it."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.attn import Source
from ...ir.attributes import Dim
from ...ir.expr import Expr
from .live_area import nominal_sizes


@dataclass(frozen=True, slots=True)
class Work:
    """One attention to be tiled: its domain, sources, widths, element type and facts about sizes."""

    domain: tuple[Dim, ...]
    sources: tuple[Source, ...]
    width: int
    value_width: int
    dtype: str
    facts: tuple[Expr, ...] = ()

    def sizes(self, length: int) -> dict[str, int]:
        return nominal_sizes(self.domain, self.sources, length, self.facts)
