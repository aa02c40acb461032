"""Symbolic shapes: the rules for broadcasting, reshaping, slicing and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

from ..ir.expr import ONE, Const, Expr, Op, const, free_vars, op
from ..ir.simplify import simplify
from .errors import Mismatch, MissingDimension
from .graph import Graph

Shape = tuple[Expr, ...]


def broadcast_size(graph: Graph, a: Expr, b: Expr) -> Expr:
    """One dimension of a broadcast; which side is 1 is a guard when it is not plain to see."""
    a, b = graph.canon(a), graph.canon(b)
    if a == b or b == ONE:
        return a
    if a == ONE:
        return b
    if graph.hint(a) == graph.hint(b):
        return graph.unify(a, b)
    for one, other in ((a, b), (b, a)):
        if graph.hint(one) == 1:
            graph.assume(op("==", one, 1))
            return other
    raise Mismatch(f"sizes {graph._shown(a)} and {graph._shown(b)} do not broadcast")


def broadcast(graph: Graph, *shapes: Sequence[Expr]) -> Shape:
    """The common shape of tensors that meet in an elementwise op."""
    result: list[Expr] = []
    for sizes in zip_longest(*(reversed(s) for s in shapes), fillvalue=ONE):
        size: Expr = ONE
        for other in sizes:
            size = broadcast_size(graph, size, other)
        result.append(size)
    return tuple(reversed(result))


def matmul(graph: Graph, a: Shape, b: Shape) -> Shape:
    """``a @ b``, vectors included."""
    left, right = a if len(a) > 1 else (ONE, *a), b if len(b) > 1 else (*b, ONE)
    graph.unify(left[-1], right[-2])
    batch = broadcast(graph, left[:-2], right[:-2])
    return (*batch, *left[-2:-1][: len(a) > 1], *right[-1:][: len(b) > 1])


def dim(rank: int, d: int) -> int:
    """``d`` counted from 0."""
    if not -max(rank, 1) <= d < max(rank, 1):
        raise MissingDimension(f"dimension {d} does not exist; the tensor has {rank}")
    return d + max(rank, 1) if d < 0 else d


def dims(rank: int, ds: int | Sequence[int] | None) -> tuple[int, ...]:
    """Dimensions counted from 0, sorted; None and () are all of them."""
    if ds is None or (not isinstance(ds, int) and len(ds) == 0):
        return tuple(range(rank))
    return tuple(sorted(dim(rank, d) for d in ([ds] if isinstance(ds, int) else ds)))


def reduce(shape: Shape, over: Sequence[int], keepdim: bool) -> Shape:
    """The shape after reducing the dimensions ``over``."""
    return tuple(ONE if n in over else e for n, e in enumerate(shape) if keepdim or n not in over)


def product(sizes: Sequence[Expr]) -> Expr:
    result: Expr = ONE
    for e in sizes:
        result = result * e
    return result


def _factors(e: Expr) -> list[Expr]:
    return [x for a in e.args for x in _factors(a)] if isinstance(e, Op) and e.name == "*" else [e]


def _split(sizes: Sequence[Expr]) -> tuple[int, list[Expr]]:
    """The constant factor of a product, and the others."""
    parts = [f for e in sizes for f in _factors(e)]
    numbers = [int(p.value) for p in parts if isinstance(p, Const)]
    return math.prod(numbers), [p for p in parts if not isinstance(p, Const)]


def quotient(graph: Graph, whole: Sequence[Expr], part: Sequence[Expr]) -> Expr:
    """The product of ``whole`` divided by that of ``part``, which divides it exactly."""
    (n, ws), (d, ps) = _split([graph.canon(e) for e in whole]), _split([graph.canon(e) for e in part])
    for p in list(ps):
        if p in ws:
            ws.remove(p)
            ps.remove(p)
    for p in list(ps):  # N and N // 128 leave 128
        match p:
            case Op("//", (inner, Const(c))) if inner in ws and graph.assume(op("==", inner % c, 0)):
                ws.remove(inner)
                ps.remove(p)
                n *= int(c)
    shared = math.gcd(n, d) or 1
    n, d = n // shared, d // shared
    for w in list(ws):  # a factor that d divides
        if d > 1 and not ps and int(graph.hint(w)) % d == 0:
            graph.assume(op("==", w % d, 0))
            ws[ws.index(w)], d = w // d, 1
    rest = product([*ws, *([const(n)] if n != 1 else [])])
    below = product([*ps, *([const(d)] if d != 1 else [])])
    return graph.canon(rest if below == ONE else rest // below)


def reshape(graph: Graph, shape: Shape, wanted: Sequence[Expr]) -> Shape:
    """The shape asked for, with ``-1`` worked out.  Divisibility becomes a guard."""
    wanted = [graph.canon(e) for e in wanted]
    _align(graph, shape, wanted)
    _align(graph, shape[::-1], wanted[::-1])
    shape, wanted = tuple(graph.canon(e) for e in shape), [graph.canon(e) for e in wanted]
    text = f"cannot give a tensor of shape ({', '.join(map(str, shape))}) the shape ({', '.join(map(str, wanted))})"
    whole = int(graph.hint(product(shape)))
    unknown = [n for n, e in enumerate(wanted) if e == const(-1)]
    known = [e for e in wanted if e != const(-1)]
    asked = int(graph.hint(product(known)))
    if len(unknown) > 1 or (whole != asked if not unknown else whole % max(asked, 1)):
        raise Mismatch(f"{text}: {whole} elements against {asked}")
    if unknown:
        wanted[unknown[0]] = quotient(graph, shape, known)
    else:
        left = quotient(graph, shape, known)
        if left != ONE and graph.hint(product(shape)):
            graph.unify(*_cancelled(graph, shape, known))
    return tuple(graph.canon(e) for e in wanted)


def _cancelled(graph: Graph, a: Sequence[Expr], b: Sequence[Expr]) -> tuple[Expr, Expr]:
    """Two products without the factors that they share, none of which is zero: ``B * N`` and ``B * 14``, N and 14."""
    (n, xs), (m, ys) = _split([graph.canon(e) for e in a]), _split([graph.canon(e) for e in b])
    for x in list(xs):
        if x in ys:
            xs.remove(x)
            ys.remove(x)
    shared = math.gcd(n, m)
    return product([*xs, const(n // shared)]), product([*ys, const(m // shared)])


def _align(graph: Graph, shape: Shape, wanted: Sequence[Expr]) -> None:
    """Record that dimensions which meet in a reshape are equal: ``v.view(B, H, N // 4, 4, -1)`` with ``B`` from ``q``.

    Without it the -1 would be a quotient of products of sizes that are equal, but not known to be.
    """
    m = 0
    for size in shape:
        n = m + 1
        while n < len(wanted) and const(-1) not in wanted[m:n] and graph.hint(product(wanted[m:n])) < graph.hint(size):
            n += 1
        group = wanted[m:n]
        if not group or const(-1) in group or graph.hint(product(group)) != graph.hint(size):
            return
        whole = simplify(product(group), holds=graph.guards)
        if free_vars(whole) and free_vars(size) and not free_vars(whole) & free_vars(size):
            graph.unify(size, whole)
        m = n


def clamp_slice(graph: Graph, size: Expr, start: Expr | None, stop: Expr | None, step: int) -> tuple[Expr, Expr, Expr]:
    """Start and stop inside ``[0, size]``, and the length.  Which side of a border they lie is a guard."""

    def inside(e: Expr) -> Expr:
        if graph.assume(op("<", e, 0)):
            e = _plus(size, e)
            return e if graph.assume(op(">=", e, 0)) else const(0)
        return e if graph.assume(op("<=", e, size)) else size

    lo = const(0) if start is None else inside(graph.canon(start))
    hi = size if stop is None else inside(graph.canon(stop))
    lo, hi = graph.canon(lo), graph.canon(hi)
    if not graph.assume(op("<=", lo, hi)):
        hi = lo
    length = _minus(hi, lo)
    return lo, hi, graph.canon(length if step == 1 else (length + (step - 1)) // step)


def _plus(a: Expr, b: Expr) -> Expr:
    return _minus(a, const(-b.value)) if isinstance(b, Const) and b.value < 0 else a + b


def _minus(a: Expr, b: Expr) -> Expr:
    """``a - b``, seeing through ``(a + c) - a`` and ``N - (N - 3)``."""
    match a, b:
        case Op("+", (x, y)), _ if x == b:
            return y
        case Op("+", (x, y)), _ if y == b:
            return x
        case _, Op("-", (x, y)) if x == a:
            return y
    return a - b


def window_count(size: Expr, width: Expr, step: Expr, before: Expr = const(0), after: Expr = const(0)) -> Expr:
    """How many windows fit: ``(size + padding - width) // step + 1``."""
    total = size + (before + after)
    return _minus(total, width) // step + 1 if width != step or (before + after) != const(0) else total // step
