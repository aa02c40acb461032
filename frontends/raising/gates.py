"""Factors between the softmax and the values: out of the sum where they do not depend on the key.

``((p * g[i]) @ v)`` is ``g[i] * (p @ v)``, and ``((p * g[j]) @ v)`` is ``p @ (g[j] * v)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.expr import Const, Expr, Var, free_vars
from ..graph import Node
from . import views
from .contract import Element
from .elementwise import broadcast
from .plan import Gate
from .terms import NoMatch, has_loads, kind_of_dtype
from .values import Values


@dataclass(frozen=True)
class Gated:
    """``weights`` without its gates; ``rows`` go to the result and ``keys`` to the values."""

    weights: Element
    rows: tuple[Gate, ...]
    keys: tuple[Gate, ...]


def ungated(
    values: Values, weights: Element, key: str, of_values: frozenset[str], weighty: Callable[[Node], bool]
) -> Gated:
    """Take factors off ``weights``, the element of a product's weights for key ``key``."""
    node, index = weights

    def counts(x: object) -> bool:
        return isinstance(x, Node) and weighty(x) and any(key in free_vars(e) for e in broadcast(x, index))

    rows: list[Gate] = []
    keys: list[Gate] = []
    while node.op not in ("softmax", "exp", "exp2"):
        if node.op in views.VIEWS:
            inner = views.step(values, node, index)
            if inner is None or any(has_loads(x) for x in inner):
                break
            node, index = node["input"], inner
        elif node.op == "to" and kind_of_dtype(node["input"].dtype) == "float":
            node = node["input"]
        elif node.op == "neg":
            rows.append(Gate(-1.0))
            node = node["input"]
        elif node.op in ("mul", "div"):
            side, other = node["input"], node["other"]
            if node.op == "mul" and counts(other):
                side, other = other, side
            if not isinstance(side, Node) or not counts(side) or counts(other):
                break
            gate = _gate(values, other, index, node.op == "div")
            used = frozenset().union(*(free_vars(x) for x in gate.index)) if gate.index else frozenset()
            if key not in used:
                rows.append(gate)
            elif used <= of_values:
                keys.append(gate)
            else:
                what = other.op if isinstance(other, Node) else "a number"
                reason = (
                    f"the weights are multiplied after the softmax by {what}, which depends on the query and the key"
                )
                raise NoMatch(reason, node.location)
            node, index = side, broadcast(side, index)
        else:
            break
    return Gated((node, index), tuple(rows), tuple(keys))


def _gate(values: Values, x: object, index: tuple[Expr, ...], divides: bool) -> Gate:
    if isinstance(x, Node):
        return Gate(x, tuple(values.simplify(e) for e in broadcast(x, index)), divides)
    if isinstance(x, Expr):
        x = values.scalar(x)
    if isinstance(x, Const):
        x = x.value
    if not isinstance(x, int | float):
        raise NoMatch("a factor after the softmax is a number known only at the call")
    return Gate(float(x), (), divides)


def placed(gate: Gate, names: dict[str, int], node: Node) -> Gate:
    """``gate`` with its index over the dimensions ``x0, x1, ...`` of a tensor; ``names`` says which is which."""
    index: list[Expr] = []
    for e in gate.index:
        if isinstance(e, Const):
            index.append(e)
        elif isinstance(e, Var) and e.name in names:
            index.append(Var(f"x{names[e.name]}"))
        else:
            raise NoMatch("a factor after the softmax is laid out in another way than the result", node.location)
    if len({str(e) for e in index if isinstance(e, Var)}) < sum(isinstance(e, Var) for e in index):
        raise NoMatch("a factor after the softmax is read at a diagonal", node.location)
    return Gate(gate.factor, tuple(index), gate.divides)


def text(gate: Gate, rank: int, operand: str) -> str:
    """PyTorch's text for ``gate`` as a tensor that broadcasts with one of ``rank`` dimensions."""
    if not isinstance(gate.factor, Node):
        return repr(gate.factor)
    kept: list[int] = []
    for dim in reversed(range(len(gate.index))):
        at = gate.index[dim]
        if isinstance(at, Const):
            operand = f"torch.select({operand}, {dim}, {at})"
        else:
            kept.insert(0, int(str(at)[1:]))
    order = sorted(range(len(kept)), key=kept.__getitem__)
    if order != list(range(len(kept))):
        operand = f"torch.permute({operand}, {tuple(order)})"
    for dim in range(rank):
        if dim not in kept:
            operand = f"torch.unsqueeze({operand}, {dim})"
    return operand
