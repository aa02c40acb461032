"""Rules for ops that only say where an element comes from: ``index of the result -> index of the input``.

``step`` follows one such op; ``back`` follows a bijective one the other way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...ir.expr import Const, Expr, Op, const, free_vars, op, walk
from ..graph import Node
from .bounds import bound
from .terms import has_loads

if TYPE_CHECKING:
    from .values import Values

Index = tuple[Expr, ...]
VIEWS = frozenset({
    "permute", "reshape", "unsqueeze", "squeeze", "expand", "slice", "select", "roll", "flip", "repeat",
    "repeat_interleave", "unfold",
})  # fmt: skip
BIJECTIVE = frozenset({"permute", "reshape", "unsqueeze", "squeeze", "roll", "flip"})


def step(values: Values, node: Node, index: Index) -> Index | None:
    """Where element ``index`` of a view lies in its input; None when that cannot be said."""
    source: Node = node["input"]
    s = values.simplify
    match node.op:
        case "permute":
            result: list[Expr] = [Const(0)] * source.rank
            for x, dim in zip(index, node["dims"], strict=True):
                result[dim] = x
            return tuple(result)
        case "reshape":
            return regroup(values, source.shape, node.shape, index)
        case "unsqueeze":
            return _without(index, {node["dim"]})
        case "squeeze":
            kept = iter(index)
            return tuple(Const(0) if d in node["dim"] else next(kept) for d in range(source.rank))
        case "expand":
            tail = index[len(index) - source.rank :]
            return tuple(Const(0) if a == Const(1) else x for x, a in zip(tail, source.shape, strict=True))
        case "slice":
            return _changed(index, node["dim"], lambda x: s(const(node["start"]) + x * const(node["step"])))
        case "select":
            dim = node["dim"]
            at = values.scalar(const(node["index"]))
            return (*index[:dim], at, *index[dim:])
        case "roll":
            for shift, dim in zip(_tuple(node["shifts"]), _tuple(node["dims"]), strict=True):
                index = _changed(index, dim, lambda x, k=shift, d=dim: s((x - const(k)) % source.shape[d]))
            return index
        case "flip":
            for dim in node["dims"]:
                index = _changed(index, dim, lambda x, d=dim: s(source.shape[d] - 1 - x))
            return index
        case "repeat":
            tail = index[len(index) - source.rank :]
            return tuple(s(x % n) for x, n in zip(tail, source.shape, strict=True))
        case "repeat_interleave":
            if isinstance(node["repeats"], Node) or node["dim"] is None:
                return None
            return _changed(index, node["dim"], lambda x: s(x // const(node["repeats"])))
        case "unfold":
            dim = node["dim"]
            at = s(index[dim] * const(node["step"]) + index[-1])
            return (*index[:dim], at, *index[dim + 1 : -1])
    return None


def back(values: Values, node: Node, index: Index) -> Index:
    """Where element ``index`` of a bijective view's input lies in the view."""
    source: Node = node["input"]
    s = values.simplify
    match node.op:
        case "permute":
            return tuple(index[d] for d in node["dims"])
        case "reshape":
            return regroup(values, node.shape, source.shape, index)
        case "unsqueeze":
            return (*index[: node["dim"]], Const(0), *index[node["dim"] :])
        case "squeeze":
            return _without(index, set(node["dim"]))
        case "roll":
            for shift, dim in zip(_tuple(node["shifts"]), _tuple(node["dims"]), strict=True):
                index = _changed(index, dim, lambda x, k=shift, d=dim: s((x + const(k)) % source.shape[d]))
            return index
        case "flip":
            return step(values, node, index) or index
    raise AssertionError(node.op)


def regroup(values: Values, to: Index, of: Index, index: Index) -> Index:
    """Index into shape ``to`` of the element at ``index`` of shape ``of``, both in row-major order.

    Dimensions are matched in the smallest groups of equal products, so that a batch dimension stays itself.
    """
    result: list[Expr] = []
    a = b = 0
    while a < len(to) or b < len(of):
        a0, b0 = a, b
        left: Expr = Const(1)
        right: Expr = Const(1)
        while True:
            if a > a0 and b > b0 and values.same_size(left, right):
                break
            if a == len(to) and b == len(of):
                break
            if b == len(of) or (a < len(to) and (a == a0 or values.hint(left) <= values.hint(right)) and b > b0):
                left = values.simplify(left * to[a])
                a += 1
            else:
                right = values.simplify(right * of[b])
                b += 1
        while a < len(to) and to[a] == Const(1) and b == len(of):
            a += 1
        while b < len(of) and of[b] == Const(1) and a == len(to):
            b += 1
        result += _regroup(values, to[a0:a], of[b0:b], index[b0:b])
    return tuple(result)


def _regroup(values: Values, to: Index, of: Index, index: Index) -> list[Expr]:
    s = values.simplify
    flat: Expr = Const(0)
    for x, size in zip(index, of, strict=True):
        flat = s(flat * size + x)
    result: list[Expr] = []
    for size in reversed(to[1:]):
        result.append(s(flat % size))
        flat = s(flat // size)
    return [flat, *reversed(result)] if to else []


def _changed(index: Index, dim: int, change: Callable[[Expr], Expr]) -> Index:
    return (*index[:dim], change(index[dim]), *index[dim + 1 :])


def _without(index: Index, dims: set[int]) -> Index:
    return tuple(x for d, x in enumerate(index) if d not in dims)


def _tuple(value: object) -> tuple:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def gathered(values: Values, node: Node, index: Index) -> Index | None:
    """Where ``x[i0, :, i1]`` or ``gather`` reads its input; None when an index has no scalar form."""
    source: Node = node["input"]
    if node.op == "gather":
        dim = node["dim"]
        at = values.at(node["index"], index)
        wrapped = wrap(values, at, source.shape[dim])
        return None if wrapped is None else _changed(index, dim, lambda _: wrapped)
    indices = tuple(node["indices"])
    indices += (None,) * (source.rank - len(indices))
    given = [n for n, x in enumerate(indices) if x is not None]
    rank = max(indices[n].rank for n in given)
    # PyTorch puts the indexed dimensions first, unless they are neighbours
    neighbours = given == list(range(given[0], given[-1] + 1))
    start = given[0] if neighbours else 0
    inner = index[start : start + rank]
    outer = iter(index[:start] + index[start + rank :])
    result: list[Expr] = []
    for n, x in enumerate(indices):
        if x is None:
            result.append(next(outer))
            continue
        if str(x.dtype) == "torch.bool":
            return None
        tail = inner[rank - x.rank :]
        tail = tuple(Const(0) if size == Const(1) else y for y, size in zip(tail, x.shape, strict=True))
        at = wrap(values, values.at(x, tail), source.shape[n])
        if at is None:
            return None
        result.append(at)
    return tuple(result)


def wrap(values: Values, at: Expr, size: Expr) -> Expr | None:
    """An index that counts from the end when it is negative.  That it ends before ``size`` becomes a guard."""
    at = values.simplify(at)
    if not values.facts.always(op("<", at, size)):
        highest = bound(values, at, True)
        if highest is not None:
            if not values.graph.hint(op("<", highest, size)):
                return None  # PyTorch says which index is out of range, if one is
            values.assume(op("<", highest, size))
    if values.facts.nonnegative(at):
        return at
    for limit in _size_bounds(values, at):
        values.assume(op(">=", limit, 0))  # min(x, N - 5): the window fits
    if values.facts.nonnegative(at):
        return values.simplify(at)
    if values.facts.nonnegative(-1 - at):
        return values.simplify(at + size)
    lowest = bound(values, at, False)
    if lowest is not None and values.graph.hint(op("<=", 0, lowest + size)):
        values.assume(op("<=", 0, lowest + size))
    return op("where", op("<", at, 0), values.simplify(at + size), at)


def _size_bounds(values: Values, e: Expr) -> list[Expr]:
    """Expressions of sizes alone that ``e`` is clamped to, and that are not negative in the traced call."""
    found = [a for x in walk(e) if isinstance(x, Op) and x.name in ("min", "max") for a in x.args]
    sizes = set(values.sizes)
    return [
        a for a in found if free_vars(a) and free_vars(a) <= sizes and not has_loads(a) and values.graph.hint(a) >= 0
    ]
