"""What stays eager: the user's line, the reason, and the memory it allocates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.expr import Const, Expr, free_vars
from ...ir.poly import of_expr
from ..graph import Graph, Input, Location, Node
from .values import Values
from .views import VIEWS


@dataclass(frozen=True)
class EagerNote:
    """One op that PyTorch runs.  ``quadratic``: its result has as many elements as there are (query, key) pairs,
    or it is a softmax that was not fused.
    """

    op: str
    location: Location
    reason: str
    bytes: Expr
    quadratic: bool


class TokenSizes:
    """Which sizes count tokens: for each softmax those of the dimension that it normalises over, and of the one before.

    Sizes of two attentions are no pair: with attention by rows and by columns of a grid, the grid is not quadratic.
    """

    def __init__(self, values: Values, graph: Graph):
        self.values = values
        self.pairs: set[tuple[frozenset[str], frozenset[str], int]] = set()  # sizes of both, and how many pairs
        for node in graph.nodes:
            if node.op in ("softmax", "log_softmax", "logsumexp"):
                self.add(node["input"].shape[-2:])
            elif node.op == "scaled_dot_product_attention":
                self.add((node["query"].shape[-2], node["key"].shape[-2]))

    def add(self, shape: Sequence[Expr]) -> None:
        if len(shape) == 2:
            queries, keys = (free_vars(self.values.simplify(size)) for size in shape)
            self.pairs.add((queries, keys, math.prod(map(self.values.hint, shape))))

    def add_operands(self, node: Node) -> None:
        """Count in the sizes of the weights that a failed attention multiplies: its operand that is not the values."""
        for x in node.inputs:
            if not isinstance(x, Input) and x.op not in VIEWS:
                self.add(x.shape[-2:])

    def quadratic(self, node: Node) -> bool:
        """Does ``node`` hold an element for each pair of an attention, and more as both token counts grow?

        A layout of blocks grows as fast, but has fewer elements.
        """
        if node.op in VIEWS or not self.pairs:
            return False
        count = elements(self.values, node)
        products = [p for m in of_expr(count) for p in itertools.permutations(map(free_vars, m), 2)]
        pairs = [(queries, keys) for queries, keys, least in self.pairs if self.values.hint(count) >= least]
        return any(a & queries and b & keys for queries, keys in pairs for a, b in products)


def elements(values: Values, node: Node) -> Expr:
    """How many elements ``node`` has."""
    result: Expr = Const(1)
    for size in node.shape:
        result = result * size
    return values.simplify(result)


def bytes_of(values: Values, node: Node) -> Expr:
    """The memory of a node's result."""
    if node.op in VIEWS:
        return Const(0)
    return values.simplify(elements(values, node) * node.dtype.itemsize)
