"""Composite ops written as the simpler ops that the matcher knows."""

from __future__ import annotations

from ...ir.expr import Const, Expr, op
from ..graph import Node
from .values import Values


def expand_composites(values: Values) -> None:
    """Record for each composite op of the graph the simpler ops that say the same."""
    for node in values.graph.nodes:
        if node.op == "scaled_dot_product_attention":
            result = _attention(values, node)
            if result is not None:
                values.composites[node.name] = result


def _attention(values: Values, node: Node) -> Node | None:
    q, k, v = node["query"], node["key"], node["value"]
    if node.args.get("dropout_p", 0.0) not in (0, 0.0) or min(q.rank, k.rank, v.rank) < 2:
        return None
    if node.args.get("enable_gqa") and q.rank > 2:
        k, v = (_repeat_heads(values, x, q) for x in (k, v))
    scale = node.args.get("scale")
    if scale is None:
        scale = Const(float(values.static(q.shape[-1])) ** -0.5)
    batch = node.shape[:-2]
    columns, rows = k.shape[-2], q.shape[-2]
    dims = (*range(k.rank - 2), k.rank - 1, k.rank - 2)
    turned = values.new_node("permute", k, args={"input": k, "dims": dims}, shape=(*k.shape[:-2], k.shape[-1], columns))
    shape = (*batch, rows, columns)
    dot = values.new_node("matmul", q, args={"input": q, "other": turned}, shape=shape, location=node.location)
    factor = values.scalar(op("float", scale)) if isinstance(scale, Expr) else Const(float(scale))
    mask, causal = node.args.get("attn_mask"), bool(node.args.get("is_causal"))
    args = {"input": dot, "product": dot, "scale": factor, "mask": mask, "is_causal": causal}
    score = values.new_node("sdpa_score", dot, args=args)
    weights = values.new_node("softmax", score, args={"input": score, "dim": len(shape) - 1})
    return values.new_node("matmul", node, args={"input": weights, "other": v}, shape=node.shape)


def _repeat_heads(values: Values, x: Node, q: Node) -> Node:
    """Keys or values with one head for each query head."""
    if values.same_size(x.shape[-3], q.shape[-3]):
        return x
    times = values.simplify(q.shape[-3] // x.shape[-3])
    shape = (*x.shape[:-3], q.shape[-3], *x.shape[-2:])
    return values.new_node("repeat_interleave", x, args={"input": x, "repeats": times, "dim": x.rank - 3}, shape=shape)
