"""What stays eager: the user's line, the reason, and the memory it allocates."""

from __future__ import annotations

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
    """Which sizes count tokens: those of the dimensions that a softmax normalises over, and of the one before."""

    def __init__(self, values: Values, graph: Graph):
        self.values = values
        self.sizes: set[str] = set()
        for node in graph.nodes:
            found: list[Expr] = []
            if node.op in ("softmax", "log_softmax", "logsumexp"):
                found = list(node["input"].shape[-2:])
            elif node.op == "scaled_dot_product_attention":
                found = [node["query"].shape[-2], node["key"].shape[-2]]
            for size in found:
                self.sizes |= free_vars(values.simplify(size))

    def add_operands(self, node: Node) -> None:
        """Count in the sizes of the weights that a failed attention multiplies: its operand that is not the values."""
        for x in node.inputs:
            if not isinstance(x, Input) and x.rank >= 2 and x.op not in VIEWS:
                for size in x.shape[-2:]:
                    self.sizes |= free_vars(self.values.simplify(size))

    def quadratic(self, node: Node) -> bool:
        """Does the size of ``node`` grow with the product of two token counts?"""
        if node.op in VIEWS or not self.sizes:
            return False
        terms = of_expr(elements(self.values, node))
        return any(sum(bool(free_vars(x) & self.sizes) for x in m) >= 2 for m in terms)


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
