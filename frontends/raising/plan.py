"""What the matcher found: one attention, over the matcher's own variable names."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...ir.expr import Expr
from ..graph import Node


@dataclass(frozen=True)
class SourcePlan:
    """One source of keys.  A ``key`` or ``value`` of None is a row of zeros."""

    extent: Expr
    key: Node | None
    key_map: tuple[Expr, ...]
    value: Node | None
    value_map: tuple[Expr, ...]
    mask: Expr
    score: Expr


@dataclass(frozen=True)
class AttendPlan:
    """One attention.  ``dims`` are name and extent, the query row last; a ``query`` of None is a row of zeros."""

    node: Node
    dims: tuple[tuple[str, Expr], ...]
    query: Node | None
    query_map: tuple[Expr, ...]
    sources: tuple[SourcePlan, ...]
    width: int
    value_width: int
    out_map: tuple[Expr, ...]
    captures: tuple[Node, ...]
    dtype: torch.dtype

    def operands(self) -> list[Node]:
        """Nodes whose tensors the attention reads."""
        nodes = [self.query, *(s.key for s in self.sources), *(s.value for s in self.sources), *self.captures]
        return list(dict.fromkeys(n for n in nodes if n is not None))
