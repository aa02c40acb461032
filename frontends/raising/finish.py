"""From a matched attention to its plan: the query row, relative keys, maps and captured tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from ...ir.distance import by_distance
from ...ir.expr import (
    TRUE,
    Const,
    Expr,
    Load,
    Op,
    Var,
    all_of,
    conjuncts,
    free_vars,
    inners,
    op,
    substitute,
    walk,
    without_inners,
)
from ...ir.poly import constant_value, of_expr, split_linear, to_expr
from ..graph import Input, Node
from .contract import Contraction
from .peel import Peeled
from .plan import AttendPlan, Gate, SourcePlan
from .terms import NoMatch
from .values import Values

BATCH_NAMES = ("b", "h", "g", "r", "s", "t", "u", "w", "y", "z")


@dataclass(frozen=True)
class CandidateSource:
    var: Var
    extent: Expr
    query: Peeled | None
    key: Peeled | None
    value: Peeled | None
    mask: Expr
    score: Expr
    product: Contraction | None
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True)
class Candidate:
    node: Node
    names: list[str]  # a variable for each dimension of node
    feature: str | None
    width: int
    sources: list[CandidateSource]
    dtype: torch.dtype


def finish(values: Values, c: Candidate) -> AttendPlan:
    """Choose the query row, make keys and values independent of it, and name everything."""
    query, width, feature_d, sources = _query(values, c)
    row, sources = _row(values, c, query, sources)
    batch = [n for n in c.names if n not in (row, c.feature)]
    names = dict(zip(batch, _batch_names(values, len(batch)), strict=True))
    extents = dict(zip(c.names, c.node.shape, strict=True))
    dims = [(names[n], extents[n]) for n in batch]
    if row is None:
        dims.append(("i", Const(1)))
    else:
        names[row] = "i"
        dims.append(("i", extents[row]))
    if c.feature:
        names[c.feature] = "e"

    def final(e: Expr, more: dict[str, str]) -> Expr:
        return substitute(values.simplify(e), {k: Var(v) for k, v in {**names, **more}.items()})

    done = []
    for s in sources:
        rename = {s.var.name: "j"}
        if s.product is not None:
            rename[s.product.variable.name] = "d"
        done.append(
            SourcePlan(
                values.simplify(s.extent),
                s.key.node if s.key else None,
                tuple(final(x, rename) for x in s.key.index) if s.key else (Var("d"),),
                s.value.node if s.value else None,
                tuple(final(x, rename) for x in s.value.index) if s.value else (Var("e"),),
                final(s.mask, rename),
                final(s.score, rename),
                s.gates,
            )
        )
    query_map = tuple(final(x, {feature_d: "d"}) for x in query.index) if query else (Var("d"),)
    captured = dict.fromkeys(
        values.node_of(x) for s in done for e in (s.mask, s.score) for x in walk(e) if isinstance(x, Load)
    )
    plan = AttendPlan(
        c.node,
        tuple((n, values.simplify(e)) for n, e in dims),
        query.node if query else None,
        query_map,
        tuple(done),
        width,
        c.width,
        tuple(Var(names[n]) for n in c.names),
        tuple(captured),
        c.dtype,
    )
    _check(values, plan)
    return plan


def _query(values: Values, c: Candidate) -> tuple[Peeled | None, int, str, list[CandidateSource]]:
    """The one query of all sources, and the width of the inner products."""
    query: Peeled | None = None
    width, name = 1, ""
    sources = []
    for s in c.sources:
        if s.query is None or s.product is None:
            sources.append(s)
            continue
        d = s.product.variable.name
        size = values.static(s.product.extent)
        if query is None:
            query, width, name = s.query, size, d
        same = Peeled(s.query.node, tuple(substitute(x, {d: Var(name)}) for x in s.query.index), query.factor)
        here, there = ([values.simplify(x) for x in p.index] for p in (same, query))
        if same.node is not query.node or here != there:
            raise NoMatch("the sources of one softmax have different queries", c.node.location)
        sources.append(s)
    if query is None and any(_unread(values, s.score) for s in c.sources):
        node = next(n for s in c.sources for n in _unread(values, s.score))
        reason = f"the score comes from {node.op}, which is not an inner product of a query and a key"
        raise NoMatch(reason, node.location)
    return query, width, name, sources


def _unread(values: Values, score: Expr) -> list[Node]:
    """Tensors of size queries times keys that the function computes and the score only reads."""
    found = [x for x in walk(score) if isinstance(x, Load) and values.pairwise(x.index)]
    return [n for n in (values.node_of(x) for x in found) if not isinstance(n, Input)]


def _row(
    values: Values, c: Candidate, query: Peeled | None, sources: list[CandidateSource]
) -> tuple[str | None, list[CandidateSource]]:
    """The query row: the last dimension that neither keys nor values depend on, directly or after `relative`."""
    used = _vars_of(s.key for s in sources) | _vars_of(s.value for s in sources)
    asks = _vars_of([query]) if query else set(c.names)
    free = [n for n in c.names if n != c.feature and n not in used]
    candidates = [n for n in free if n in asks] or free
    if candidates:
        return candidates[-1], sources
    order = [n for n in reversed(c.names) if n != c.feature and n in asks]
    reason: NoMatch | None = None
    for row in order:
        try:
            return row, [_relative(values, s, row) for s in sources]
        except NoMatch as error:
            reason = reason or (error if error.loud else None)
    if reason:
        raise NoMatch(reason.reason, c.node.location)
    in_values = _vars_of(s.value for s in sources)
    if any(n not in in_values for n in c.names if n != c.feature):
        raise NoMatch("the score's inner product is not between a query and a key", c.node.location)
    return None, sources


def _relative(values: Values, s: CandidateSource, row: str) -> CandidateSource:
    """Keys counted from the query's own position, ``i + t - w``, become keys ``j`` with a condition on ``j - i``."""
    spots = [(p, n, x) for p in (s.key, s.value) if p for n, x in enumerate(p.index) if row in free_vars(x)]
    if not spots:
        return s
    p, axis, at = spots[0]
    if any(other != at for _, _, other in spots[1:]):
        both = any(q is p and m != axis for q, m, _ in spots[1:])
        raise NoMatch(
            "the keys are counted from the query along two dimensions; unfold an image whose rows and columns are one "
            "dimension, or mask the distances of rows and columns"
            if both
            else "keys and values are read at different rows"
        )
    written, at = at, _unclamped(values, at, s.mask)
    split = split_linear(of_expr(at), s.var)
    stride = None if split is None else constant_value(split[0])
    if split is None or stride is None or s.var.name in free_vars(to_expr(split[1])):
        if s.var.name not in free_vars(at):
            raise NoMatch(loud=False)
        where = _readable(at, s.var, row)
        raise NoMatch(f"the keys are gathered at {where}, which is not a fixed offset from the query")
    if p.node.shape[axis] == Const(1) or stride == 0:
        raise NoMatch(loud=False)
    key = values.fresh("j", p.node.shape[axis])
    values.keys.add(key.name)
    first = to_expr(split[1])
    offset = values.simplify(key - first if stride > 0 else first - key)  # j - f = stride * t
    stride = abs(stride)
    t = values.simplify(offset // stride)
    conditions = [op("<=", 0, offset), op("<", offset, s.extent * stride)]
    if stride > 1:
        conditions.append(op("==", offset % stride, 0))

    def change(e: Expr) -> Expr:
        return substitute(e, {s.var.name: t})

    def moved(q: Peeled | None) -> Peeled | None:
        if q is None:
            return None
        index = tuple(Var(key.name) if x == written else values.simplify(change(x)) for x in q.index)
        if any(row in free_vars(x) for x in index):
            raise NoMatch("the keys depend on the query in two ways")
        if not values.assume_equal(q.node.shape[q.index.index(written)], p.node.shape[axis]):
            raise NoMatch("keys and values have different lengths")
        return replace(q, index=index)

    mask = values.simplify(all_of([*conditions, change(s.mask)]))
    return replace(s, var=key, extent=p.node.shape[axis], key=moved(s.key), value=moved(s.value), mask=mask,
                   score=values.simplify(change(s.score)))  # fmt: skip


def _unclamped(values: Values, at: Expr, mask: Expr) -> Expr:
    """``min(max(x, 0), N - 1)`` as ``x``, where the mask says that it makes no difference."""
    inner = at
    while isinstance(inner, Op) and inner.name in ("min", "max"):
        inner = max(inner.args, key=lambda x: len(free_vars(x) & set(values.extents)))
    known = set(conjuncts(mask))
    bounds = [(x.name, a) for x in walk(at) if isinstance(x, Op) and x.name in ("min", "max") for a in x.args]
    for name, bound in bounds:
        if free_vars(bound) & set(values.extents):
            continue
        if not set(conjuncts(values.simplify(op("<=" if name == "min" else ">=", inner, bound)))) <= known:
            return at
    return inner


def _readable(at: Expr, key: Var, row: str) -> str:
    return str(substitute(at, {key.name: Var("t"), row: Var("i")})).replace("%", "x")


def _check(values: Values, plan: AttendPlan) -> None:
    batch = {n for n, _ in plan.dims[:-1]} | set(values.sizes)
    known = batch | {"i", "j"}
    for s in plan.sources:
        for what, exprs, allowed in (
            ("the mask", [s.mask], known),
            ("the score", [without_inners(s.score)], known | {"dot"}),
            ("the score", inners(s.score), known | {"d"}),
            ("the keys", s.key_map, batch | {"j", "d"}),
            ("the values", s.value_map, batch | {"j", "e"}),
        ):
            extra = set().union(*(free_vars(e) for e in exprs)) - allowed
            if extra:
                raise NoMatch(f"{what} of a query depend on more than its batch, row and key", plan.node.location)
        for product in inners(s.score):
            _check_inner(values, product, plan)
        if s.mask != TRUE and any(x.tensor not in values.nodes for x in walk(s.mask) if isinstance(x, Load)):
            raise NoMatch("the mask reads a tensor that is not known", plan.node.location)
    if set().union(*(free_vars(e) for e in plan.query_map)) - batch - {"i", "d"}:
        raise NoMatch("the query depends on the key", plan.node.location)


def _check_inner(values: Values, product: Op, plan: AttendPlan) -> None:
    """Raise :class:`NoMatch` unless a kernel computes the inner product for tiles of pairs."""
    left, right = (x for x in product.args if isinstance(x, Load))
    where = values.node_of(right).location
    if "j" in free_vars(left) or by_distance(right.index, "i", "j") is None:
        at = ", ".join(str(x) for x in right.index if {"i", "j"} & free_vars(x))
        raise NoMatch(
            f"a product of the query with rows at {at} is computed in the kernel only where the distance i - j says "
            "which row it is; mask what a clamp changes, or clip the distance",
            where,
        )
    widths = [n for x in (left, right) for n, e in zip(values.node_of(x).shape, x.index, strict=True) if e == Var("d")]
    if not widths or values.static(widths[0]) != plan.width or plan.query is None:
        raise NoMatch("the rows of positions have another width than the keys", where)


def _vars_of(elements: Iterable[Peeled | None]) -> set[str]:
    return set().union(*(free_vars(x) for p in elements if p is not None for x in p.index))


def _batch_names(values: Values, count: int) -> list[str]:
    taken = set(values.sizes)
    free = [n for n in BATCH_NAMES if n not in taken]
    free += [f"b{n}" for n in range(count) if f"b{n}" not in taken]
    return free[:count]
