"""Keys with a part that depends on the query, by their distance say: ``q_i . (k_j + r[f(i, j)])``.

With few rows ``r`` this is ``q_i . k_j + t[i, f(i, j)]``: PyTorch multiplies each query with each row once,
``t = q @ r.mT``, and the kernel looks the products up.  They take memory for each token, times the number of rows.
With as many rows as keys, the products are as many as the scores, and the kernel computes them itself: ``inner``.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence

from ...ir.expr import Const, Expr, Load, Var, free_vars, op, rewrite, substitute
from ..graph import Input, Node
from .bounds import bound
from .contract import Contraction, Contractions, Element
from .peel import Peeled, peel
from .terms import NoMatch, addends, factors, load, product, total, uses
from .values import Values

_MORE, _LESS = 1 << 20, 1 << 10  # with so many times the tokens, a table has grown so many times less than the pairs


def tabulated(
    values: Values, contractions: Contractions, score: Expr, products: Sequence[Load]
) -> tuple[Expr, list[Load]]:
    """``score`` with small tables of products to look up, and its other inner products."""
    rest: list[Load] = []
    several = len(products) > 1
    for x in products:
        if several and is_table(values, x):  # the function holds one: q @ table.mT, read at a distance
            continue
        c = contractions.of(x)
        assert c is not None
        parts = _parts(values, c)
        if parts is None or (len(parts[1]) == 1 and not several):  # keys at a fixed offset from the query, perhaps
            rest.append(x)
            continue
        other, terms = parts
        sum: list[tuple[int, Expr]] = []
        for sign, number, vector in terms:
            if values.pairwise(vector.index):
                piece = _looked_up(values, x, c.variable, other, vector)
            else:
                piece = contractions.part(
                    x, Contraction(c.variable, c.extent, other, (values.node_of(vector), vector.index))
                )
                rest.append(piece)
            sum.append((sign, product([y for y in (piece, number, c.factor) if y != Const(1.0)])))
        score = rewrite(score, lambda e, x=x, sum=sum: total(sum) if e == x else None)  # type: ignore[misc]
    return score, rest


def is_table(values: Values, e: Load) -> bool:
    """Is this looked up at places that depend on query and key, among numbers that grow slower than the pairs do?"""
    if sum(values.pairwise((x,)) for x in e.index) > 1:
        return False  # shifted: not even whose product it is depends on the query alone
    tokens = values.rows | values.keys
    sizes: list[Expr] = []
    names: set[str] = set()
    for size, x in zip(values.node_of(e).shape, e.index, strict=True):
        if uses(x, tokens):
            names |= free_vars(x) & tokens
            highest = bound(values, values.simplify(x), True)
            sizes.append(size if highest is None else op("max", size, highest + 1))
    extents = [values.simplify(values.extents[n]) for n in sorted(names)]
    symbols = frozenset().union(*map(free_vars, extents))
    once, more = ({n: times * max(int(values.graph.hints[n]), 1) for n in symbols} for times in (1, _MORE))
    held, pairs = (_product(values, of, once) for of in (sizes, extents))
    if not symbols:
        return held < pairs
    return _product(values, sizes, more) * pairs * _LESS < _product(values, extents, more) * held


def _product(values: Values, sizes: Sequence[Expr], known: Mapping[str, int]) -> int:
    return math.prod(max(int(values.graph.hint(n, known)), 1) for n in sizes)


def _parts(values: Values, c: Contraction) -> tuple[Element, list[tuple[int, Expr, Load]]] | None:
    """The other operand, and what is added up in the one that varies with query and key: sign, number, vector.

    None where there is no such operand.
    """
    for side, other in ((c.left, c.right), (c.right, c.left)):
        if not values.pairwise(side[1]):
            continue
        found = _vectors(values, side, c.variable.name)
        if found is None:
            found = _gathered(values, side)
        if found is None:
            return None
        if any(values.pairwise(vector.index) for *_, vector in found):
            return other, found
    return None


def _vectors(values: Values, side: Element, feature: str) -> list[tuple[int, Expr, Load]] | None:
    """The addends of an operand; None where one is not a vector times a number."""
    found: list[tuple[int, Expr, Load]] = []
    for sign, term in addends(values.simplify(values.at(*side))):
        num, den = factors(term)
        vectors = [x for x in num if uses(x, feature)]
        if len(vectors) != 1 or not isinstance(vectors[0], Load) or any(uses(x, feature) for x in den):
            return None
        number = product([x for x in num if x is not vectors[0]])
        found.append((sign, number / product(den) if den else number, vectors[0]))
    return found


def _gathered(values: Values, side: Element) -> list[tuple[int, Expr, Load]] | None:
    """An operand that gathers rows which PyTorch has computed; None where it is not one."""
    whole = peel(values, *side, like=side[0].dtype)
    return None if whole.node is side[0] else [(1, Const(1.0), load(whole.node, whole.index))]


def _looked_up(values: Values, of: Load, feature: Var, other: Element, vector: Load) -> Expr:
    """The product of ``other`` and the ``vector``, as an element of the product with all the rows that it may be.

    One that the kernel computes where these are no fewer than pairs.
    """
    many, node = peel(values, *other, like=other[0].dtype), values.node_of(of)
    if values.pairwise(many.index):
        raise NoMatch(
            "both operands of a product depend on query and key; if this is a relative shift, mask the keys to which "
            "it brings products of another query, or clip the distance",
            node.location,
        )
    vector = values.apart.get(vector, vector)
    rows = values.node_of(vector)
    if feature not in vector.index and not values.pairwise((vector.index[-1],)):
        return _inner(values, feature, many, vector)  # heads and features are one dimension, as projections leave them
    where = f"the keys of a query differ from those of others by rows of {_named(rows)}"
    spare = iter(c for c in string.ascii_letters if c != "d")
    letters: dict[Expr, tuple[str, Expr]] = {feature: ("d", values.extents[feature.name])}
    kept: dict[str, tuple[Expr, Expr]] = {}  # the dimensions of the products: size, and where they are read
    for x, size in _moving(many.node, many.index):
        if x not in letters:
            letters[x] = next(spare), size
            kept[letters[x][0]] = size, x
    looked = ""
    for x, size in _moving(rows, vector.index):
        letter, known = letters.get(x, ("", size))
        if not letter or not values.same_size(known, size):
            if not uses(x, values.rows | values.keys):
                raise NoMatch(f"{where}, read at {x}, unlike the other operand", node.location)
            letter = next(spare)
            kept[letter] = size, x
        looked += letter
    named = "".join(letters[x][0] for x, _ in _moving(many.node, many.index))
    if "d" not in named or "d" not in looked:
        raise NoMatch(f"{where}, in several dimensions", node.location)
    operands = _selected("x0", many.index), _selected("x1", vector.index)
    cast = "" if rows.dtype == many.node.dtype else f".to({many.node.dtype})"
    call = f"torch.einsum('{named},{looked}->{''.join(kept)}', {operands[0]}, {operands[1]}{cast})"
    sizes = tuple(size for size, _ in kept.values())
    table = values.made("products", call, (many.node, rows), sizes, node, many.node.dtype)
    found = load(table, [values.simplify(x) for _, x in kept.values()])
    if is_table(values, found):
        return found
    return _inner(values, feature, many, vector)


def _inner(values: Values, feature: Var, left: Peeled, right: Load) -> Expr:
    """The product as the kernel computes it; what it cannot is found out when rows and keys are known."""
    d = {feature.name: Var("d")}
    index = [substitute(values.simplify(x), d) for x in right.index]
    return op("inner", load(left.node, [substitute(x, d) for x in left.index]), load(values.node_of(right), index))


def _moving(node: Node, index: Sequence[Expr]) -> list[tuple[Expr, Expr]]:
    """Where a tensor is read, and the size, in the dimensions where this is not always the same place."""
    return [(x, size) for x, size in zip(index, node.shape, strict=True) if not isinstance(x, Const)]


def _selected(text: str, index: Sequence[Expr]) -> str:
    """PyTorch's text for the tensor without the other dimensions."""
    for dim in reversed(range(len(index))):
        x = index[dim]
        if isinstance(x, Const):
            text = f"torch.select({text}, {dim}, {x.value})"
    return text


def _named(node: Node) -> str:
    return node.name if isinstance(node, Input) else f"the result of {node.op} ({node.location})"
