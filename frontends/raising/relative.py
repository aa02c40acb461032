"""Keys with a part that depends on the query, by their distance say: ``q_i . (k_j + r[f(i, j)])``.

With few rows ``r`` this is ``q_i . k_j + t[i, f(i, j)]``: PyTorch multiplies each query with each row once,
``t = q @ r.mT``, and the kernel looks the products up.  They take memory for each token, times the number of rows.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from functools import reduce

from ...ir.expr import Const, Expr, Load, Var, free_vars, op, rewrite
from ...ir.poly import of_expr
from ..graph import Input, Node
from .contract import Contraction, Contractions, Element
from .peel import peel
from .terms import NoMatch, addends, factors, load, product, total, uses
from .values import Values


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
    tokens = values.rows | values.keys
    sized = [(n, x) for n, x in zip(values.node_of(e).shape, e.index, strict=True) if uses(x, tokens)]
    names = sorted({n for _, x in sized for n in free_vars(x)} & tokens)
    for size, x in sized:
        keys = [values.extents[n] for n in names if n in values.keys and uses(x, n)]
        if uses(x, values.rows) and any(values.facts.always(op("<=", extent, size)) for extent in keys):
            return False  # a row for each distance
    held, pairs = _size([n for n, _ in sized]), _size([values.extents[n] for n in names])
    symbols = free_vars(values.simplify(pairs))
    if not symbols:
        return values.hint(held) < values.hint(pairs)
    return _degree(values, held, symbols) < _degree(values, pairs, symbols)


def _size(extents: Sequence[Expr]) -> Expr:
    return reduce(lambda a, b: a * b, extents, Const(1))


def _degree(values: Values, e: Expr, symbols: frozenset[str]) -> int:
    """How often the longest product in ``e`` counts tokens."""
    return max((sum(bool(free_vars(a) & symbols) for a in m) for m in of_expr(values.simplify(e))), default=0)


def _parts(values: Values, c: Contraction) -> tuple[Element, list[tuple[int, Expr, Load]]] | None:
    """The other operand, and what is added up in the one that varies with query and key: sign, number, vector.

    None where there is no such operand.
    """
    for side, other in ((c.left, c.right), (c.right, c.left)):
        if not values.pairwise(side[1]):
            continue
        found = []
        for sign, term in addends(values.simplify(values.at(*side))):
            num, den = factors(term)
            vectors = [x for x in num if uses(x, c.variable.name)]
            if len(vectors) != 1 or not isinstance(vectors[0], Load) or any(uses(x, c.variable.name) for x in den):
                return None
            number = product([x for x in num if x is not vectors[0]])
            found.append((sign, number / product(den) if den else number, vectors[0]))
        if any(values.pairwise(vector.index) for *_, vector in found):
            return other, found
    return None


def _looked_up(values: Values, of: Load, feature: Var, other: Element, vector: Load) -> Load:
    """The product of ``other`` and the ``vector``, as an element of the product with all the rows that it may be."""
    many, node = peel(values, *other, like=other[0].dtype), values.node_of(of)
    vector = values.apart.get(vector, vector)
    rows = values.node_of(vector)
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
                raise NoMatch(
                    f"{where}, which are read at {x}, and not by heads as the other operand is", node.location
                )
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
    if not is_table(values, found):
        size = " x ".join(str(values.simplify(n)) for n in sizes)
        raise NoMatch(f"{where}: all products are {size}, no fewer than pairs; clip the distance", node.location)
    return found


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
