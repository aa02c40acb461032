"""Looking into sums: inner products of two tensors, and plain sums over one dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir.expr import Const, Expr, Load, Var, substitute
from ..graph import Node
from . import views
from .elementwise import broadcast
from .terms import kind_of_dtype, product, uses
from .values import Values

Element = tuple[Node, tuple[Expr, ...]]


@dataclass(frozen=True)
class Contraction:
    """``factor * sum over variable < extent of left * right``."""

    variable: Var
    extent: Expr
    left: Element
    right: Element
    factor: Expr = Const(1.0)


@dataclass(frozen=True)
class Sum:
    """``sum over variable < extent of body``."""

    variable: Var
    extent: Expr
    body: Element

    def at(self, values: Values, position: Expr) -> Expr:
        """What is summed, at one position."""
        node, index = self.body
        changed = {self.variable.name: position}
        return values.simplify(values.at(node, tuple(values.simplify(substitute(x, changed)) for x in index)))


class Contractions:
    """Contractions by (node, index), so that the same element always sums over the same variable."""

    def __init__(self, values: Values):
        self.values = values
        self._memo: dict[Load, Contraction | None] = {}
        self._sums: dict[Load, Sum] = {}

    @property
    def memos(self) -> tuple[dict[Load, Any], ...]:
        return self._memo, self._sums

    def of(self, e: Expr) -> Contraction | None:
        """``e`` as an inner product of two tensors."""
        if not isinstance(e, Load):
            return None
        if e not in self._memo:
            self._memo[e] = self._of(self.values.node_of(e), e.index)
        return self._memo[e]

    def part(self, of: Load, c: Contraction) -> Load:
        """A name for ``c``, which is one addend of the inner product ``of``."""
        node = self.values.new_node("part", self.values.node_of(of))
        found = Load(f"%{node.name}", of.index)
        self._memo[found] = c
        return found

    def _of(self, node: Node, index: tuple[Expr, ...]) -> Contraction | None:
        if node.dtype.is_complex:  # kernels are real
            return None
        match node.op:
            case "matmul":
                return self._matmul(node["input"], node["other"], index)
            case "einsum":
                return self._einsum(node["equation"], tuple(node["operands"]), index)
            case "sum":
                return self._sum_of_product(node, index)
        return None

    def _matmul(self, a: Node, b: Node, index: tuple[Expr, ...]) -> Contraction:
        extent = a.shape[-1]
        r = self.values.fresh("r", extent)
        row = (index[-1 if b.rank == 1 else -2],) if a.rank > 1 else ()
        column = (index[-1],) if b.rank > 1 else ()
        batch = index[: len(index) - len(row) - len(column)]
        left = (*_batch(a, batch, 2 if row else 1), *row, r)
        right = (*_batch(b, batch, 2 if column else 1), r, *column)
        return Contraction(r, extent, (a, left), (b, right))

    def _einsum(self, equation: str, operands: tuple[Node, ...], index: tuple[Expr, ...]) -> Contraction | None:
        if len(operands) != 2:
            return None
        terms, out = equation.replace(" ", "").split("->")
        letters = terms.split(",")
        at: dict[str, Expr] = dict(zip(out, index, strict=True))
        sizes: dict[str, Expr] = {}
        for names, node in zip(letters, operands, strict=True):
            for letter, size in zip(names, node.shape, strict=True):
                if sizes.get(letter, Const(1)) == Const(1):
                    sizes[letter] = size
        summed = [x for x in sizes if x not in at]
        if not summed:
            return None
        r, extent, parts = self._variable([sizes[x] for x in summed])
        at.update(zip(summed, parts, strict=True))

        def index_of(names: str, node: Node) -> tuple[Expr, ...]:
            sized = zip(names, node.shape, strict=True)
            return tuple(Const(0) if size == Const(1) and x not in summed else at[x] for x, size in sized)

        left, right = (index_of(n, o) for n, o in zip(letters, operands, strict=True))
        return Contraction(r, extent, (operands[0], left), (operands[1], right))

    def _variable(self, sizes: list[Expr]) -> tuple[Var, Expr, list[Expr]]:
        """One variable that runs over several dimensions, and what it is in each."""
        values = self.values
        extent: Expr = Const(1)
        for size in sizes:
            extent = values.simplify(extent * size)
        r = values.fresh("r", extent)
        return r, extent, list(views.regroup(values, tuple(sizes), (extent,), (r,)))

    def _expanded(self, node: Node, index: tuple[Expr, ...]) -> tuple[Var, Expr, tuple[Expr, ...]]:
        """The summed variable of a ``sum``, and the index it reads its input at."""
        source: Node = node["input"]
        dims = node["dim"]
        dims = tuple(range(source.rank)) if dims is None or dims == () else tuple(dims)
        r, extent, parts = self._variable([source.shape[d] for d in dims])
        summed = dict(zip(dims, parts, strict=True))
        kept = iter(index) if not node["keepdim"] else iter(x for d, x in enumerate(index) if d not in dims)
        return r, extent, tuple(summed[d] if d in summed else next(kept) for d in range(source.rank))

    def _sum_of_product(self, node: Node, index: tuple[Expr, ...]) -> Contraction | None:
        r, extent, inner = self._expanded(node, index)
        elements, scale = self._factors(node["input"], inner)
        using = [e for e in elements if _uses(e, r.name)]
        if len(using) != 2:
            return None
        rest = [self.values.at(*e) for e in elements if e not in using]
        return Contraction(r, extent, using[0], using[1], product([*scale, *rest]))

    def _factors(self, node: Node, index: tuple[Expr, ...]) -> tuple[list[Element], list[Expr]]:
        """The tensors and the numbers that an element is the product of."""
        while True:
            if node.op in views.VIEWS:
                inner = views.step(self.values, node, index)
                if inner is None:
                    return [(node, index)], []
                node, index = node["input"], inner
            elif node.op == "to" and kind_of_dtype(node["input"].dtype) == "float":
                node = node["input"]
            else:
                break
        if node.op != "mul":
            return [(node, index)], []
        elements: list[Element] = []
        numbers: list[Expr] = []
        for side in (node["input"], node["other"]):
            if isinstance(side, Node):
                more, scale = self._factors(side, broadcast(side, index))
                elements += more
                numbers += scale
            else:
                numbers.append(self.values.scalar(side) if isinstance(side, Expr) else Const(float(side)))
        return elements, numbers

    def sum_of(self, e: Expr) -> Sum | None:
        """``e`` as a plain sum."""
        if not isinstance(e, Load):
            return None
        node = self.values.node_of(e)
        if node.op != "sum":
            return None
        if e not in self._sums:
            r, extent, inner = self._expanded(node, e.index)
            self.values.keys.add(r.name)
            self._sums[e] = Sum(r, extent, (node["input"], inner))
        return self._sums[e]


def _batch(node: Node, batch: tuple[Expr, ...], tail: int) -> tuple[Expr, ...]:
    sizes = node.shape[: node.rank - tail]
    return tuple(
        Const(0) if size == Const(1) else x for size, x in zip(sizes, batch[len(batch) - len(sizes) :], strict=True)
    )


def _uses(element: Element, name: str) -> bool:
    return any(uses(x, name) for x in element[1])
