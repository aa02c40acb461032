"""A sum of inner products as one: ``q1.k1 + q2.k2`` is ``[q1, q2].[k1, k2]``.

PyTorch concatenates the features of queries and of keys, which takes memory for each token, not for each pair.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...ir.expr import Const, Expr, Load, Op, Var, free_vars, rewrite, walk
from .contract import Contraction, Element
from .terms import NoMatch, addends, factors, product, total
from .values import Values

Product = tuple[Expr, Contraction]  # what it is multiplied by, and the inner product


def join(values: Values, score: Expr, found: dict[Load, Contraction], dot: Var) -> tuple[Expr, Contraction]:
    """``score`` of one inner product, ``dot``, and that product.

    Raises :class:`NoMatch` unless the score depends on the sum of its products alone.
    """
    places = sorted({str(values.node_of(x).location) for x in found})
    where = f"the score holds {len(found)} inner products ({', '.join(places)})"
    sum = _holder(score, set(found))
    parts: list[Product] = []
    rest: list[tuple[int, Expr]] = []
    for sign, term in addends(sum):
        num, den = factors(term)
        inside = [x for x in num if x in found]
        others = [x for x in num if x not in found]
        if not inside:
            if _holds(term, found):
                raise NoMatch(f"{where}, and what is done to them is not a sum")
            rest.append((sign, term))
            continue
        if len(inside) > 1 or any(_holds(x, found) for x in (*others, *den)):
            raise NoMatch(f"{where}, and they are multiplied")
        by = product(others)
        by = by if not den else by / product(den)
        parts.append((by if sign > 0 else Const(-1.0) * by, found[inside[0]]))  # type: ignore[index]
    if len(parts) < len(found) or len({c for _, c in parts}) < len(parts):
        raise NoMatch(f"{where}, and one of them stands in two places")
    common = parts[0][0] if all(by == parts[0][0] for by, _ in parts[1:]) else Const(1.0)
    if common == Const(1.0) and not all(isinstance(by, Const) for by, _ in parts):
        raise NoMatch(f"{where}, which are multiplied by different factors before they are added")
    numbers = [1.0 if common == by else float(by.value) for by, _ in parts]  # type: ignore[attr-defined]
    whole = _contraction(values, [c for _, c in parts], numbers, where)
    joined: Expr = dot if common == Const(1.0) else dot * common
    joined = joined if not rest else joined + total(rest)
    return rewrite(score, lambda e: joined if e == sum else None), whole


def _holder(e: Expr, found: set[Load]) -> Expr:
    """The smallest part of ``e`` that holds all inner products, wherever they stand."""
    parts = [x for x in dict.fromkeys(walk(e)) if isinstance(x, Op) and found <= set(walk(x))]
    for part in sorted(parts, key=lambda x: sum(1 for _ in walk(x))):
        without = rewrite(e, lambda x, part=part: Const(0.0) if x == part else None)  # type: ignore[misc]
        if not _holds(without, found):
            return part
    return e


def _holds(e: Expr, found: Collection[Load]) -> bool:
    return any(x in found for x in walk(e))


def _contraction(values: Values, parts: Sequence[Contraction], numbers: Sequence[float], where: str) -> Contraction:
    """The sum of the parts times their numbers."""
    parts = [_aligned(parts[0], c) for c in parts]
    factors = {c.factor for c in parts}
    if len(factors) > 1:
        raise NoMatch(f"{where}, which are multiplied by different factors before they are added")
    r = values.side_by_side([c.variable for c in parts])
    left = _operand(values, [(c.left, c.variable) for c in parts], numbers, r, where)
    right = _operand(values, [(c.right, c.variable) for c in parts], [1.0] * len(parts), r, where)
    return Contraction(r, values.extents[r.name], left, right, parts[0].factor)


def _aligned(first: Contraction, c: Contraction) -> Contraction:
    """``c`` with the operand on the left that shares more of its index with the left one of ``first``."""

    def shared(a: Element, b: Element) -> int:
        return len(set().union(*map(free_vars, a[1])) & set().union(*map(free_vars, b[1])))

    straight = shared(first.left, c.left) + shared(first.right, c.right)
    crossed = shared(first.left, c.right) + shared(first.right, c.left)
    return c if straight >= crossed else Contraction(c.variable, c.extent, c.right, c.left, c.factor)


def _operand(
    values: Values, elements: Sequence[tuple[Element, Var]], numbers: Sequence[float], r: Var, where: str
) -> Element:
    """The operands side by side along their features, as a tensor that PyTorch makes."""
    names: list[str] = []
    like = elements[0][0][0]
    for (node, index), feature in elements:
        if any(not isinstance(x, Var) and x != Const(0) for x in index) or len(set(index) - {Const(0)}) < sum(
            isinstance(x, Var) for x in index
        ):
            raise NoMatch(f"{where}, one of them of rows that depend on the query and the key", node.location)
        if feature not in index or node.dtype != like.dtype:
            raise NoMatch(f"{where}, over several dimensions or of different types", node.location)
        names += [x.name for x in index if isinstance(x, Var) and x != feature and x.name not in names]
    sizes = [values.extents[n] for n in names]
    inputs = tuple(dict.fromkeys(node for (node, _), _ in elements))
    pieces = []
    for number, ((node, index), feature) in zip(numbers, elements, strict=True):
        text = _laid_out(
            f"x{inputs.index(node)}", index, [*map(Var, names), feature], [*sizes, values.extents[feature.name]]
        )
        pieces.append(text if number == 1.0 else f"{text} * {number!r}")
    made = values.made(
        "concatenated", f"torch.cat(({', '.join(pieces)}), -1)", inputs, (*sizes, values.extents[r.name]), like
    )
    return made, (*map(Var, names), r)


def _laid_out(text: str, index: Sequence[Expr], order: Sequence[Var], sizes: Sequence[Expr]) -> str:
    """PyTorch's text for the tensor ``text[index]`` with dimensions ``order``."""
    kept = [x for x in index if isinstance(x, Var)]
    for dim in reversed([d for d, x in enumerate(index) if not isinstance(x, Var)]):
        text = f"torch.select({text}, {dim}, 0)"
    places = [kept.index(x) for x in order if x in kept]
    if places != sorted(places):
        text = f"torch.permute({text}, ({', '.join(map(str, places))}))"
    for dim, x in enumerate(order):
        if x not in kept:
            text = f"torch.unsqueeze({text}, {dim})"
    if len(kept) < len(order):
        text = f"torch.broadcast_to({text}, ({', '.join(map(str, sizes))}))"
    return text
