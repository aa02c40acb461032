"""What the matcher found: one attention, over the matcher's own variable names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ...ir.expr import Expr, Load, free_vars, walk, without_inners
from ..graph import Node


@dataclass(frozen=True)
class Gate:
    """A factor outside the softmax, multiplied in by PyTorch: ``factor[index]``, or its reciprocal."""

    factor: Node | float
    index: tuple[Expr, ...] = ()
    divides: bool = False


@dataclass(frozen=True)
class SourcePlan:
    """One source of keys.  A ``key`` or ``value`` of None is a row of zeros.

    ``gates`` are factors of the values; their index is over the value's own dimensions, ``x0, x1, ...``.
    """

    extent: Expr
    key: Node | None
    key_map: tuple[Expr, ...]
    value: Node | None
    value_map: tuple[Expr, ...]
    mask: Expr
    score: Expr
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True)
class AttendPlan:
    """One attention.  ``dims`` are name and extent, the query row last; a ``query`` of None is a row of zeros.

    ``gates`` are factors of the result, indexed by its dimensions ``x0, x1, ...``.  ``lse`` is the node that is
    the log-sum-exp of the scores; ``node`` is then only computed where ``wants_out``.
    """

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
    gates: tuple[Gate, ...] = ()
    lse: Node | None = None
    lse_map: tuple[Expr, ...] = ()
    wants_out: bool = True
    normaliser: str = "softmax"

    @property
    def is_total(self) -> bool:
        """Is this a sum of weights, without values?"""
        return all(s.value is not None and s.value.op == "ones" for s in self.sources)

    def changed(self, f: Callable[[Expr], Expr]) -> AttendPlan:
        """The same with another way of writing sizes."""

        def every(exprs: tuple[Expr, ...]) -> tuple[Expr, ...]:
            return tuple(map(f, exprs))

        sources = tuple(
            replace(
                s,
                extent=f(s.extent),
                key_map=every(s.key_map),
                value_map=every(s.value_map),
                mask=f(s.mask),
                score=f(s.score),
                gates=tuple(replace(g, index=every(g.index)) for g in s.gates),
            )
            for s in self.sources
        )
        return replace(
            self,
            dims=tuple((n, f(e)) for n, e in self.dims),
            query_map=every(self.query_map),
            sources=sources,
            out_map=every(self.out_map),
            gates=tuple(replace(g, index=every(g.index)) for g in self.gates),
            lse_map=every(self.lse_map),
        )

    def operands(self) -> list[Node]:
        """Nodes whose tensors the attention reads."""
        factors = [g.factor for g in (*self.gates, *(g for s in self.sources for g in s.gates))]
        gates = [f for f in factors if isinstance(f, Node)]
        nodes = [self.query, *(s.key for s in self.sources), *(s.value for s in self.sources), *self.captures, *gates]
        return list(dict.fromkeys(n for n in nodes if n is not None))

    def tables(self) -> list[Node]:
        """Captured products that a score reads at places that depend on query and key."""
        read = [
            x
            for s in self.sources
            for x in walk(without_inners(s.score))
            if isinstance(x, Load) and {"i", "j"} <= free_vars(x)
        ]
        names = {x.tensor for x in read}
        return [n for n in self.captures if f"%{n.name}" in names and n.op in ("matmul", "einsum", "products")]

    def scores(self) -> tuple[object, ...]:
        """What decides the weights: equal for two plans that can share one kernel."""
        sources = tuple((s.extent, s.key and s.key.name, s.key_map, s.mask, s.score) for s in self.sources)
        query = self.query and self.query.name
        return self.dims, query, self.query_map, sources, self.width, self.dtype, self.normaliser
