"""Softmaxes that PyTorch runs, under any of their names or written out as exponentials and their sums."""

from __future__ import annotations

from collections.abc import Iterable

from ..graph import Graph, Node
from .elementwise import ELEMENTWISE
from .views import VIEWS

_SUMS = frozenset({"matmul", "einsum", "linear", "sum", "mean", "cdist", "tensordot", "inner", "vecdot"})
_NORMALISE = frozenset({"div", "reciprocal", "log", "log2", "rsqrt", "normalize", "floor_divide"})
_PLAIN = "it is a softmax that is not part of an attention of a known form"
_DROPOUT = "dropout of attention weights is random, and is left to PyTorch"


def softmaxes_of(graph: Graph, calls: Iterable[Node], attentions: set[str]) -> dict[str, str]:
    """Names of the eager ``calls`` that are a softmax, with a reason for those whose matcher had none.

    One over results of ``attentions``, such as their log-sum-exps, only weighs these against each other.
    """
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for x in node.inputs:
            readers.setdefault(x.name, []).append(node)
    found = [n for n in calls if _named(n.op) or (_exponential(n) and _written_out(n, readers))]
    found = [n for n in found if not _only_of(n, attentions)]
    return {n.name: _DROPOUT if n.args.get("dropout_p") else _PLAIN for n in found}


def _only_of(node: Node, attentions: set[str]) -> bool:
    """Do elementwise arithmetic and views make what is normalised here of results of attentions, at least one?"""
    todo, seen = list(node.inputs), set()
    while todo:
        x = todo.pop()
        if x.name in attentions or x.name in seen:
            seen.add(x.name)
        elif _passes(x) and x.inputs:
            todo += x.inputs
        else:
            return False
    return bool(seen)


def _named(name: str) -> bool:
    return "softmax" in name or "attention" in name or name == "logsumexp"


def _exponential(node: Node) -> bool:
    return node.op in ("exp", "exp2") or (node.op == "pow" and not isinstance(node["input"], Node))


def _written_out(node: Node, readers: dict[str, list[Node]]) -> bool:
    """Exponentials of inner products, whose sum then divides."""
    if not any(x.op in _SUMS for x in _above(node)):
        return False
    sums = [x for x in _below(node, readers) if x.op in _SUMS or x.op == "normalize"]
    return any(y.op in _NORMALISE for s in sums for y in (s, *_below(s, readers)))


def _passes(node: Node) -> bool:
    return node.op in ELEMENTWISE or node.op in VIEWS or node.op in ("cat", "pad", "nan_to_num", "index", "gather")


def _above(node: Node) -> list[Node]:
    """What elementwise arithmetic and views make ``node`` from."""
    found: dict[str, Node] = {}
    todo = list(node.inputs)
    while todo:
        x = todo.pop()
        if x.name not in found:
            found[x.name] = x
            todo += x.inputs if _passes(x) else ()
    return list(found.values())


def _below(node: Node, readers: dict[str, list[Node]]) -> list[Node]:
    """What elementwise arithmetic and views make of ``node``."""
    found: dict[str, Node] = {}
    todo = list(readers.get(node.name, ()))
    while todo:
        x = todo.pop()
        if x.name not in found:
            found[x.name] = x
            todo += readers.get(x.name, ()) if _passes(x) else ()
    return list(found.values())
