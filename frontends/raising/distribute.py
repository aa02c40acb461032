"""Sums of weights that several softmaxes give: each is an attention of its own.

``(p1 - g * p2) @ v`` is written as ``p1 @ v - (g * p2) @ v`` in the graph, if both are attentions that can be fused.
"""

from __future__ import annotations

from ..graph import Graph, Node
from .match import Matcher
from .terms import NoMatch
from .values import Values

_SIGNS = {"add": "+", "sub": "-"}


def distribute(graph: Graph, values: Values, matcher: Matcher) -> None:
    """Distribute such products over their sums."""
    todo = [n for n in graph.nodes if n.op in ("matmul", "einsum")]
    while todo:
        node = todo.pop()
        for weights in node.inputs:
            if weights.op not in _SIGNS:
                continue
            parts = [x for x in (weights["input"], weights["other"]) if isinstance(x, Node)]
            if len(parts) < 2 or not all(p.shape == weights.shape and matcher.weighty(p) for p in parts):
                continue
            products = [_with(values, node, weights, p) for p in parts]
            if len(node.inputs) == 2 and all(_attends(matcher, p) for p in products):
                at = graph.nodes.index(node)
                graph.nodes[at:at] = products
                node.op, node.call, node.inputs = weights.op, f"(x0 {_SIGNS[weights.op]} x1)", tuple(products)
                node.args = dict(zip(("input", "other"), products, strict=True))
                matcher.forget()
                break


def _with(values: Values, product: Node, old: Node, new: Node) -> Node:
    """``product`` with another operand."""

    def changed(x: object) -> object:
        return new if x is old else tuple(map(changed, x)) if isinstance(x, tuple) else x

    args = {k: changed(v) for k, v in product.args.items()}
    made = values.new_node(product.op, product, args=args, call=product.call)
    made.inputs = tuple(new if x is old else x for x in product.inputs)
    return made


def _attends(matcher: Matcher, node: Node) -> bool:
    try:
        return matcher.match(node).normaliser == "softmax"
    except NoMatch:
        return False
