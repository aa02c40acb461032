"""From the operand of a product to the tensor that a kernel should read."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...ir.expr import Const, Expr, Op, Var, const, free_vars, op, walk
from ..graph import Node
from . import views
from .elementwise import broadcast
from .terms import has_loads, kind_of_dtype, product, uses
from .values import Values, piece_of

MOST_SOURCES = 4  # every source of keys has a loop of its own, which takes time to compile


@dataclass(frozen=True)
class Peeled:
    """``factor * node[index]``."""

    node: Node
    index: tuple[Expr, ...]
    factor: Expr = Const(1.0)


def peel(
    values: Values,
    node: Node,
    index: tuple[Expr, ...],
    *,
    like: torch.dtype,
    factor_vars: set[str] | None = None,
    feature: str | None = None,
) -> Peeled:
    """Follow ``node`` through views, casts and (if ``factor_vars`` is given) scaling.

    ``factor_vars`` are the variables that a factor may depend on.  The result is the deepest tensor of type
    ``like``, or the deepest of all when there is none, that holds the ``feature`` along one dimension.
    """
    best: Peeled | None = None
    scale: list[Expr] = []
    while True:
        if best is None or node.dtype == like or best.node.dtype != like:
            at = tuple(values.simplify(x) for x in index)
            if best is None or not _divided(at, feature):
                best = Peeled(node, at, product(scale))
        following = _step(values, node, index, scale, factor_vars)
        if following is None:
            return best
        node, index = following


def _divided(index: tuple[Expr, ...], name: str | None) -> bool:
    """Is the position along one dimension a quotient or a remainder of a variable?"""
    parts = [x for e in index for x in walk(e) if isinstance(x, Op) and x.name in ("//", "%")]
    return any(name in free_vars(x) for x in parts)


def joint(values: Values, element: tuple[Node, tuple[Expr, ...]], key: str) -> Expr | None:
    """The key at which the first of the tensors that ``element`` concatenates along the keys ends, if it does."""
    operand = peel(values, *element, like=element[0].dtype)
    if operand.node.op != "cat" or len(operand.node["tensors"]) > MOST_SOURCES:
        return None
    x, end = operand.index[operand.node["dim"]], Const(0)
    for tensor in operand.node["tensors"][:-1]:
        end = values.simplify(end + tensor.shape[operand.node["dim"]])
        at = values.simplify(end - (x - Var(key)))
        inside = not values.facts.always(op("<=", end, x)) and not values.facts.always(op("<", x, end))
        if inside and uses(x, key) and not uses(at, key):
            return at
    return None


def _step(
    values: Values, node: Node, index: tuple[Expr, ...], scale: list[Expr], factor_vars: set[str] | None
) -> tuple[Node, tuple[Expr, ...]] | None:
    if node.op in views.VIEWS:
        inner = views.step(values, node, index)
        return None if inner is None or any(has_loads(x) for x in inner) else (node["input"], inner)
    if node.op in ("index", "gather"):
        inner = views.gathered(values, node, index)
        return None if inner is None or any(has_loads(x) for x in inner) else (node["input"], inner)
    if node.op in ("cat", "pad"):
        return piece_of(values, node, index)
    if node.op == "to":
        return (node["input"], index) if kind_of_dtype(node["input"].dtype) == "float" else None
    if factor_vars is None:
        return None
    if node.op == "neg":
        scale.append(Const(-1.0))
        return node["input"], index
    if node.op in ("mul", "div"):
        sides = [node["input"], node["other"]]
        for n, side in enumerate(sides):
            other = sides[1 - n]
            if not isinstance(side, Node) or (node.op == "div" and n == 1) or side.rank < node.rank:
                continue
            factor = _factor(values, other, index, factor_vars)
            if factor is not None and kind_of_dtype(side.dtype) == "float":
                scale.append(factor if node.op == "mul" else Const(1.0) / factor)
                return side, broadcast(side, index)
    return None


def _factor(values: Values, x: object, index: tuple[Expr, ...], allowed: set[str]) -> Expr | None:
    if isinstance(x, Node):
        if any(size == Const(1) for size in x.shape) or x.rank == 0 or _outside(x, index) <= allowed:
            at = broadcast(x, index)
            term = values.at(x, at)
            return term if free_vars(term) <= allowed else None
        return None
    if isinstance(x, Expr):
        return values.scalar(x)
    return const(float(x)) if isinstance(x, int | float) else None


def _outside(x: Node, index: tuple[Expr, ...]) -> set[str]:
    return set().union(*(free_vars(e) for e in broadcast(x, index)))
