"""Which of the user's lines each part of an attention was written on.

An attention is read out of many ops: positions, comparisons, products, a softmax.  What they became has five roles:
``dot`` (the product of queries and keys), ``score`` (what is done to it), ``mask``, ``softmax`` and ``out`` (the
product with the values).  Where masks of several sources can be told apart there are ``mask0``, ``mask1``, ... as well.
"""

from __future__ import annotations

import torch

from ..graph import Node
from .plan import AttendPlan
from .values import MADE

_NORMALISING = frozenset(("softmax", "log_softmax", "logsumexp", "exp", "sum", "amax", "cumsum"))
_PRODUCTS = frozenset(("matmul", "einsum", "linear", "scaled_dot_product_attention"))


def lines_of(plan: AttendPlan) -> dict[str, str]:
    """Role -> places, in the order of the program: ``{"mask": "model.py:12, model.py:14"}``."""
    inside = _inside(plan)
    conditions = _ancestors([n for n in inside.values() if n.dtype == torch.bool], inside)
    weights = {
        name: n for name, n in inside.items() if n.op in _NORMALISING and name not in conditions and n is not plan.node
    }
    after = _descendants(weights, inside)
    products = _ancestors([n for x, n in inside.items() if n.op in _PRODUCTS and x not in after], inside)
    values = _ancestors([n for n in plan.node.inputs if n.name not in after | products], inside)
    roles: dict[str, list[Node]] = {"dot": [], "score": [], "mask": [], "softmax": [], "out": [plan.node]}
    for name, node in inside.items():
        if node is plan.node:
            continue
        if name in conditions:
            roles["mask"].append(node)
        elif name in after:
            roles["softmax"].append(node)
        elif name in products:
            roles["dot"].append(node)
        elif name in values:
            roles["out"].append(node)
        else:
            roles["score"].append(node)
            if any(n.dtype == torch.bool for n in node.inputs):  # where the mask is put on the score
                roles["mask"].append(node)
    if plan.node.op == "scaled_dot_product_attention":  # one line that says it all
        for nodes in roles.values():
            nodes.append(plan.node)
    if len(plan.sources) > 1:
        roles |= _by_source(roles["mask"], inside, len(plan.sources))
    return {role: _places(nodes or [plan.node]) for role, nodes in roles.items()}


def _by_source(masks: list[Node], inside: dict[str, Node], count: int) -> dict[str, list[Node]]:
    """``mask0``, ``mask1``, ...: without what only the masks of other sources are made of, if a ``cat`` joins them."""
    joined = [n for n in masks if n.op == "cat" and len(n.inputs) == count]
    if len(joined) != 1:
        return {}
    parts = [_ancestors([n], inside) for n in joined[0].inputs]
    others = [set().union(*(p for p in parts if p is not mine)) - mine for mine in parts]
    return {f"mask{n}": [m for m in masks if m.name not in other] for n, other in enumerate(others)}


def _inside(plan: AttendPlan) -> dict[str, Node]:
    """The nodes between what the attention reads and what it gives."""
    stop = {x.name for n in plan.operands() for x in (n, *(n.inputs if n.op in MADE else ()))}
    found: dict[str, Node] = {}
    todo = [plan.node]
    while todo:
        node = todo.pop()
        if node.name in found or (node.name in stop and node is not plan.node) or node.op == "input":
            continue
        found[node.name] = node
        todo += node.inputs
    return found


def _ancestors(nodes: list[Node], inside: dict[str, Node]) -> set[str]:
    found: set[str] = set()
    while nodes:
        node = nodes.pop()
        if node.name in inside and node.name not in found:
            found.add(node.name)
            nodes += node.inputs
    return found


def _descendants(of: dict[str, Node], inside: dict[str, Node]) -> set[str]:
    """``of`` and every node inside that reads one of them, however far."""
    found = set(of)
    for _ in inside:
        more = {name for name, n in inside.items() if name not in found and any(x.name in found for x in n.inputs)}
        if not more:
            break
        found |= more
    return found


def _places(nodes: list[Node]) -> str:
    places = {(n.location.file, n.location.line): str(n.location) for n in nodes}
    return ", ".join(places[k] for k in sorted(places))
