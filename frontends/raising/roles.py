"""Which operand of a product holds the weights, where both hold an exponential."""

from __future__ import annotations

from collections.abc import Callable

from ...ir.expr import Expr, free_vars
from ..graph import Node
from .elementwise import ELEMENTWISE, broadcast
from .terms import uses
from .values import Values
from .views import VIEWS, step


def weighs(
    values: Values, node: Node, index: tuple[Expr, ...], key: str, weighty: Callable[[Node], bool]
) -> tuple[bool, int]:
    """How surely these are weights of ``key``: normalised over it; and how much its exponential varies with."""
    if node.op in VIEWS:
        inner = step(values, node, index)
        return (False, 0) if inner is None else weighs(values, node["input"], inner, key, weighty)
    if node.op in ELEMENTWISE and not node.op.startswith(("exp", "pow")):
        inputs = [x for x in node.inputs if weighty(x)]
        return max((weighs(values, x, broadcast(x, index), key, weighty) for x in inputs), default=(False, 0))
    if not weighty(node):
        return False, 0
    over = node.op in ("softmax", "log_softmax") and uses(index[node["dim"]], key)
    names = frozenset().union(*(free_vars(x) for x in index))
    return over, len(names) if key in names else 0
