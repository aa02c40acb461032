"""``Values.at``: an element of a traced tensor as a scalar term.

Views, elementwise arithmetic, ``arange``, comparisons, gathers and pieces of ``cat`` are composed; anything
else is a load of that node, to be looked into by the matcher or left to PyTorch.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch

from ...ir.expr import FALSE, Const, Expr, Load, Var, const, free_vars, op
from ...ir.simplify import Facts
from ..graph import Graph, Node
from . import elementwise, views
from .distances import by_distance
from .terms import apply, has_loads, kind_of_dtype, load

# calls to PyTorch that raising adds
SCATTERS = ("slice_scatter", "select_scatter", "diagonal_scatter")
MADE = frozenset({"concatenated", "distances", "by_distance", "places", "logarithm", "ones", "products"})


class Values:
    """The element view of a graph.

    ``rows`` and ``keys`` name the variables that are known to count query rows and keys; costly functions of
    tensors that do not depend on both are left to PyTorch.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.nodes: dict[str, Node] = {f"%{n.name}": n for n in graph.all_nodes()}
        self.scalars = {n.name: n for n in graph.inputs if n.rank == 0}
        self.extents: dict[str, Expr] = {}
        # "this position is in the first piece" of a cat, as its rule writes it and simplified: position and end
        self.cat_conditions: dict[Expr, tuple[Expr, Expr]] = {}
        self.composites: dict[str, Node] = {}  # an op -> the last of the simpler ops that say the same
        self.apart: dict[Load, Load] = {}  # an element of a table spread out over all distances -> of the table itself
        self.rows: set[str] = set()
        self.keys: set[str] = set()
        self._memo: dict[tuple[str, tuple[Expr, ...]], Expr] = {}
        self._made: dict[tuple[str, tuple[str, ...]], Node] = {}
        self._joined: dict[tuple[str, ...], Var] = {}
        self._hints: dict[Expr, int] = {}
        self._next_id = max((n.id for n in graph.nodes), default=0) + 1
        self.refresh()

    @property
    def memos(self) -> tuple[dict[Any, Any], ...]:
        """What was written with the guards of its time; the rest is cleared by :meth:`refresh`."""
        return self.cat_conditions, self._made, self._joined, self._hints

    # ---- facts

    def refresh(self) -> None:
        """Take up guards that were added to the graph."""
        self.sizes = sorted(set(self.graph.hints))
        ranges = {name: (Const(1), None) for name in self.sizes}
        witness = {k: v for k, v in self.graph.hints.items() if isinstance(v, int)}
        self.facts = Facts(ranges, self.graph.guards, witness)
        for name, extent in self.extents.items():
            self._learn(name, extent)
        self._memo.clear()

    def _learn(self, name: str, extent: Expr) -> None:
        self.facts.ranges[name] = (Const(0), self.facts.simplify(extent - 1))

    def fresh(self, prefix: str, extent: Expr) -> Var:
        """A new variable in ``[0, extent)``."""
        name = f"{prefix}_{len(self.extents)}"
        while name in self.graph.hints:  # the sizes of an argument x are called x_0, x_1, ...
            name += "_"
        self.extents[name] = extent
        self._learn(name, extent)
        return Var(name)

    def simplify(self, e: Expr) -> Expr:
        return self.facts.simplify(e)

    def hint(self, e: Expr) -> int:
        if e not in self._hints:
            self._hints[e] = int(self.graph.hint(e))
        return self._hints[e]

    def same_size(self, a: Expr, b: Expr) -> bool:
        return self.simplify(a - b) == Const(0)

    def assume_equal(self, a: Expr, b: Expr) -> bool:
        """Are two sizes equal?  In the traced call, which becomes a guard unless it is always so."""
        d = self.simplify(a - b)
        if isinstance(d, Const):
            return d == Const(0)
        if not self.graph.hint(op("==", a, b)):
            return False
        self.graph.assume(op("==", a, b))
        self.refresh()
        return True

    def assume(self, condition: Expr) -> None:
        """Rely on a condition on sizes that holds in the traced call."""
        if not self.facts.always(condition) and self.graph.assume(condition):
            self.refresh()

    def static(self, e: Expr) -> int:
        """A size as a number; becomes a guard."""
        e = self.simplify(e)
        if isinstance(e, Const):
            return int(e.value)
        value = self.graph.specialise(e)
        self.refresh()
        return value

    def scalar(self, e: Expr) -> Expr:
        return self.simplify(elementwise.scalar_loads(self, e))

    def new_node(self, op_name: str, like: Node, **changes: object) -> Node:
        """A node that the tracer did not see, for composite ops."""
        node = Node(self._next_id, op_name, {}, like.shape, like.dtype, like.location)
        self._next_id += 1
        for name, value in changes.items():
            setattr(node, name, value)
        node.inputs = tuple(v for v in node.args.values() if isinstance(v, Node))
        self.nodes[f"%{node.name}"] = node
        return node

    def made(
        self,
        name: str,
        call: str,
        inputs: tuple[Node, ...],
        shape: tuple[Expr, ...],
        like: Node,
        dtype: torch.dtype | None = None,
    ) -> Node:
        """The result of a call to PyTorch that the function does not hold itself; the same one for the same call."""
        key = call, tuple(x.name for x in inputs)
        if key not in self._made:
            assert name in MADE
            node = self.new_node(name, like, shape=tuple(map(self.simplify, shape)), call=call)
            node.inputs, node.dtype = inputs, dtype or like.dtype
            self._made[key] = node
        return self._made[key]

    def logsumexp(self, scores: Node, axis: int) -> Node:
        """The log-sum-exp of the scores of an attention, along one of their dimensions."""
        key = f"logsumexp {axis}", (scores.name,)
        if key not in self._made:
            shape = (*scores.shape[:axis], *scores.shape[axis + 1 :])
            args = {"input": scores, "dim": (axis,), "keepdim": False}
            self._made[key] = self.new_node("logsumexp", scores, args=args, shape=shape)
        return self._made[key]

    def side_by_side(self, variables: Sequence[Var]) -> Var:
        """The variable of a dimension that holds those of ``variables`` one after another."""
        names = tuple(v.name for v in variables)
        if names not in self._joined:
            self._joined[names] = self.fresh("r", reduce(operator.add, (self.extents[n] for n in names)))
        return self._joined[names]

    def node_of(self, e: Load) -> Node:
        return self.nodes[e.tensor]

    # ---- elements

    def at(self, node: Node, index: tuple[Expr, ...]) -> Expr:
        """The element of ``node`` at ``index``."""
        key = (node.name, index)
        done = self._memo.get(key)
        if done is None:
            done = self._memo[key] = self._at(node, index)
        return done

    def _at(self, node: Node, index: tuple[Expr, ...]) -> Expr:
        name = node.op
        if name in views.VIEWS:
            inner = views.step(self, node, index)
            return load(node, index) if inner is None else self.at(node["input"], inner)
        if any(x.dtype.is_complex for x in (node, *node.inputs)):  # expressions are real
            return load(node, index)
        if name in elementwise.ELEMENTWISE:
            term = elementwise.element(self, node, index)
            if term is None or (self._left_to_pytorch(node, index) and has_loads_or_vars(term)):
                return load(node, index)
            return term
        rule = _RULES.get(name)
        term = rule(self, node, index) if rule else None
        return load(node, index) if term is None else term

    def _left_to_pytorch(self, node: Node, index: tuple[Expr, ...]) -> bool:
        if node.op not in elementwise.HEAVY or kind_of_dtype(node.dtype) != "float":
            return False
        if node.op == "pow" and node["other"] in (2, 2.0):
            return False
        return not self.pairwise(index)

    def pairwise(self, index: tuple[Expr, ...]) -> bool:
        """Does an index depend on the query row and on the key?"""
        names = frozenset().union(*(free_vars(x) for x in index))
        return bool(names & self.keys) and bool(names & self.rows or not self.rows)


def has_loads_or_vars(e: Expr) -> bool:
    return has_loads(e) or bool(free_vars(e))


# ---- the remaining rules ---------------------------------------------------------------------------------


def _arange(values: Values, node: Node, index: tuple[Expr, ...]) -> Expr:
    start, stride = values.scalar(const(node["start"])), values.scalar(const(node["step"]))
    term = values.simplify(start + index[0] * stride)
    return elementwise.convert(term, kind_of_dtype(node.dtype))


def _full(values: Values, node: Node, index: tuple[Expr, ...]) -> Expr:
    value = node["value"]
    if isinstance(value, Node):
        term = values.at(value, ())
    else:
        term = values.scalar(const(value))
    return elementwise.convert(term, kind_of_dtype(node.dtype))


def _triangle(values: Values, node: Node, index: tuple[Expr, ...]) -> Expr:
    i, j = index[-2:]
    diagonal = const(node.args.get("diagonal", 0))
    kept = values.simplify(op("<=" if node.op == "tril" else ">=", j - i, diagonal))
    term = values.at(node["input"], index)
    kind = kind_of_dtype(node.dtype)
    if kind == "bool":
        return op("and", kept, term)
    return op("where", kept, term, 0.0 if kind == "float" else 0)


def _eye(values: Values, node: Node, index: tuple[Expr, ...]) -> Expr:
    return elementwise.convert(values.simplify(op("==", *index)), kind_of_dtype(node.dtype))


def _cat(values: Values, node: Node, index: tuple[Expr, ...]) -> Expr:
    dim = node["dim"]
    pieces: list[tuple[Expr, Expr]] = []  # upper end of the piece, its element
    end: Expr = Const(0)
    for piece in node["tensors"]:
        begin, end = end, values.simplify(end + piece.shape[dim])
        x = index[dim]
        inside = values.simplify(op("and", op("<=", begin, x), op("<", x, end)))
        if inside == FALSE:
            continue
        pieces.append((end, values.at(piece, (*index[:dim], values.simplify(x - begin), *index[dim + 1 :]))))
        if values.facts.always(op("<", x, end)):
            break
    result = pieces[-1][1]
    for end, term in reversed(pieces[:-1]):
        condition = op("<", index[dim], end)
        values.cat_conditions |= dict.fromkeys((condition, values.simplify(condition)), (index[dim], end))
        if kind_of_dtype(node.dtype) == "bool":
            result = op("or", op("and", condition, term), op("and", op("not", condition), result))
        else:
            result = op("where", condition, term, result)
    return result


def _pad(values: Values, node: Node, index: tuple[Expr, ...]) -> Expr:
    source, pad = node["input"], node["pad"]
    inside: list[Expr] = []
    inner = list(index)
    for n in range(len(pad) // 2):
        dim = len(index) - 1 - n
        inner[dim] = values.simplify(index[dim] - const(pad[2 * n]))
        inside += [op("<=", 0, inner[dim]), op("<", inner[dim], source.shape[dim])]
    condition: Expr = Const(True)
    for c in inside:
        condition = op("and", condition, c)
    condition = values.simplify(condition)
    fill = elementwise.convert(values.scalar(const(node.args.get("value") or 0)), kind_of_dtype(node.dtype))
    if condition == FALSE:
        return fill
    term = values.at(source, tuple(inner))
    return elementwise._choice(node, condition, term, fill)


def _scatter(values: Values, node: Node, index: tuple[Expr, ...]) -> Expr | None:
    """A write of part of a tensor: ``x[:, a:b] = part``, ``x[:, n] = part``, ``x.diagonal().copy_(part)``."""
    pairwise = values.pairwise(index)
    if _writes(node) > (8 if pairwise else 4) or (not pairwise and node.rank > 1):
        return None  # a picture painted region by region: PyTorch computes it once
    if node.op == "diagonal_scatter":
        axes = node["dim1"], node["dim2"]
        (i, j), offset = (index[d] for d in axes), values.scalar(const(node["offset"]))
        condition = values.simplify(op("==", j - i, offset))
        first = values.simplify(op("min", i, j)) if not isinstance(offset, Const) else i if offset.value >= 0 else j
        inner = (*(y for d, y in enumerate(index) if d not in axes), first)
    elif node.op == "select_scatter":
        dim, x = node["dim"], index[node["dim"]]
        condition = values.simplify(op("==", x, values.scalar(const(node["index"]))))
        inner = (*index[:dim], *index[dim + 1 :])
    else:
        dim, x = node["dim"], index[node["dim"]]
        start, stop, stride = (values.scalar(const(node[k])) for k in ("start", "stop", "step"))
        offset = values.simplify(x - start)
        inside = op("and", op("<=", 0, offset), op("<", x, stop))
        condition = values.simplify(op("and", inside, op("==", offset % stride, 0)))
        inner = (*index[:dim], values.simplify(offset // stride), *index[dim + 1 :])
    kept = values.at(node["input"], index)
    if condition == FALSE:
        return kept
    part: Node = node["part"]
    kind = kind_of_dtype(node.dtype)
    return elementwise._choice(node, condition, elementwise.convert(values.at(part, inner), kind), kept)


def _writes(node: Node) -> int:
    count = 0
    while node.op in SCATTERS:
        count, node = count + 1, node["input"]
    return count


def _gather(values: Values, node: Node, index: tuple[Expr, ...]) -> Expr | None:
    inner = views.gathered(values, node, index)
    if inner is None:
        return None
    if not values.pairwise(index) and any(has_loads(x) for x in inner):
        return None
    if all(isinstance(values.simplify(n), Const) for n in node.shape) and any(has_loads(x) for x in inner):
        return None  # a table of fixed size: gathered once is cheaper than gathered in the kernel
    found = by_distance(values, node, inner) if values.pairwise(index) else None
    return values.at(*found) if found else values.at(node["input"], inner)


def _sdpa_score(values: Values, node: Node, index: tuple[Expr, ...]) -> Expr:
    """``scaled_dot_product_attention`` before its softmax."""
    score = apply("*", values.at(node["product"], index), node["scale"])
    mask = node.args.get("mask")
    if isinstance(mask, Node):
        m = values.at(mask, elementwise.broadcast(mask, index))
        score = op("where", m, score, float("-inf")) if kind_of_dtype(mask.dtype) == "bool" else apply("+", score, m)
    if node["is_causal"]:
        score = op("where", op("<=", index[-1], index[-2]), score, float("-inf"))
    return score


def _composite(values: Values, node: Node, index: tuple[Expr, ...]) -> Expr | None:
    inner = values.composites.get(node.name)
    return None if inner is None else values.at(inner, index)


_RULES = {
    "arange": _arange,
    "full": _full,
    "tril": _triangle,
    "triu": _triangle,
    "eye": _eye,
    "cat": _cat,
    "pad": _pad,
    **dict.fromkeys(SCATTERS, _scatter),
    "index": _gather,
    "gather": _gather,
    "sdpa_score": _sdpa_score,
    "scaled_dot_product_attention": _composite,
}


def piece_of(values: Values, node: Node, index: tuple[Expr, ...]) -> tuple[Node, tuple[Expr, ...]] | None:
    """The one piece of a ``cat`` (or the inside of a ``pad``) that ``index`` provably lies in."""
    always, s = values.facts.always, values.simplify
    if node.op == "cat":
        dim = node["dim"]
        begin: Expr = Const(0)
        for piece in node["tensors"]:
            inner = s(index[dim] - begin)
            if always(op("<=", 0, inner)) and always(op("<", inner, piece.shape[dim])):
                return piece, (*index[:dim], inner, *index[dim + 1 :])
            begin = s(begin + piece.shape[dim])
    return None


def atoms(e: Expr) -> list[Load]:
    """Loads in ``e``, outermost ones only."""
    if isinstance(e, Load):
        return [e]
    return list(dict.fromkeys(x for c in e.children for x in atoms(c)))
