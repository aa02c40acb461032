"""Tables read by a costly function of the distance between query and key, such as T5's logarithmic buckets.

``table[bucket(j - i), h]`` holds as many numbers as there are distances.  PyTorch looks them up once, with the very
arithmetic that the function was written with, and the kernel reads ``looked_up[j - i + N - 1, h]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from ...ir.expr import Const, Expr, Load, Op, Var, free_vars, kind_of, substitute, walk
from ..graph import Node
from .terms import load, uses

if TYPE_CHECKING:
    from .values import Values

_DISTANCE = Var("distance")
_SPELT = {"pow": "**", "and": "&", "or": "|"}


def by_distance(values: Values, node: Node, index: tuple[Expr, ...]) -> tuple[Node, tuple[Expr, ...]] | None:
    """``node[index]`` as an element of a table of distances that PyTorch fills; None where that is not what it is."""
    costly = [n for n, e in enumerate(index) if any(kind_of(x) == "float" for x in walk(e))]
    if len(costly) != 1:
        return None
    (axis,) = costly
    at, source = index[axis], node["input"]
    names = sorted(free_vars(at) & set(values.extents), key=lambda n: n in values.keys)
    kinds = {x.dtype for x in _upstream(x for x in node.inputs if x is not source) if x.dtype.is_floating_point}
    if len(names) != 2 or len(kinds) != 1 or any(isinstance(x, Load) for x in walk(at)):
        return None
    row, key = map(Var, names)
    function = values.simplify(substitute(at, {key.name: _DISTANCE + row}))
    if row.name in free_vars(function):
        return None
    low, high = values.simplify(1 - values.extents[row.name]), values.extents[key.name]
    count, at = values.simplify(high - low), values.simplify(key - row - low)
    range = values.made("distances", f"torch.arange({low}, {high}, device=device)", (), (count,), source, torch.int64)
    place = _text(function, str(kinds.pop()))
    places = values.made("places", place.replace("x1", "x0"), (range,), (count,), source, torch.int64)
    apart = (*index[:axis], load(places, (at,)), *index[axis + 1 :])
    if any(uses(x, values.rows | values.keys) for n, x in enumerate(index) if n != axis):
        return source, apart  # a table for each token, which would take a number for each pair
    call = f"torch.index_select(x0, {axis}, {place})"
    shape = (*source.shape[:axis], count, *source.shape[axis + 1 :])
    spread = (*index[:axis], at, *index[axis + 1 :])
    table = values.made("by_distance", call, (source, range), shape, source)
    values.apart[load(table, spread)] = load(source, apart)
    return table, spread


def _upstream(nodes: Iterable[Node]) -> list[Node]:
    """The nodes that these are computed from, with them."""
    found: dict[str, Node] = {}
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node.name not in found:
            found[node.name] = node
            todo += node.inputs
    return list(found.values())


def _text(e: Expr, kind: str) -> str:
    """PyTorch's text for ``e`` of a tensor of distances, ``x1``."""

    def inner(x: Expr) -> str:
        return _text(x, kind)

    match e:
        case Const(value):
            return repr(value)
        case Var():
            return "x1" if e == _DISTANCE else str(e)
        case Op("not", (x,)):
            return f"torch.logical_not({inner(x)})"
        case Op("where", (c, a, b)):
            return f"torch.where({inner(c)}, {inner(a)}, {inner(b)})"
        case Op("min" | "max" as name, (a, b)):
            a, b = (b, a) if _DISTANCE.name not in free_vars(a) else (a, b)
            return f"torch.clamp({inner(a)}, {'max' if name == 'min' else 'min'}={inner(b)})"
        case Op("int", (x,)):
            return f"{inner(x)}.to(torch.int64)" if kind_of(x) != "bool" else f"{inner(x)} * 1"
        case Op("float", (x,)):
            return f"{inner(x)}.to({kind})"
        case Op("floor" | "ceil" as name, (x,)):
            return f"torch.{name}({inner(x)}).to(torch.int64)"
        case Op(name, (a, b)):
            return f"({inner(a)} {_SPELT.get(name, name)} {inner(b)})"
        case Op(name, (x,)):
            return f"torch.{name}({inner(x)})"
    raise AssertionError(f"{e} has no text")
