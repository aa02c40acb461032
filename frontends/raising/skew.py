"""Elements of a skewed matrix: pad a column, read the rows as if they were one shorter, leave the first out.

So Transformer-XL brings the products of queries with distances under their keys.  Element ``(i, j)`` then lies at
``(i * M + j + N) // (M + 1)``, ``(i * M + j + N) % (M + 1) - 1`` of the matrix before.  That is ``i``,
``j + N - 1 - i`` where it is not what a causal mask takes away.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import poly
from ...ir.expr import TRUE, Const, Expr, Load, Op, Var, conjuncts, free_vars, op, walk
from ...ir.simplify import Facts
from .bounds import bound
from .terms import holds_infinity
from .values import Values

_AWKWARD = ("//", "%", "min", "max", "where")


def unskewed(values: Values, e: Expr, mask: Expr = TRUE) -> Expr:
    """``e`` with simpler reads where ``mask`` holds, and where what it chooses by says so."""
    if not _skewed(values, e):
        return e
    found = _under(values, e, conjuncts(values.simplify(mask)))
    fitting = [x for x in _skewed(values, found) if _fits(values, x)]
    if fitting:
        found = _under(values, values.simplify(e), conjuncts(values.simplify(mask)))
    return found


def _skewed(values: Values, e: Expr) -> list[Load]:
    return [x for x in walk(e) if isinstance(x, Load) and _is_skewed(values, x)]


def _fits(values: Values, e: Load) -> bool:
    """Does each row hold just the distances that there are, ``2 * N - 1`` say?  It becomes a guard."""
    found = False
    for x in [x for i in e.index for x in walk(i)]:
        match x:
            case Op("//" | "%", (at, size)) if values.pairwise((x,)):
                highest = bound(values, at, True)
                if highest is not None and values.hint(highest) == values.hint(size) - 1:
                    found |= _assume_zero(values, poly.of_expr(values.simplify(highest - size + 1)))
    return found


def _assume_zero(values: Values, difference: poly.Poly) -> bool:
    """Assume that a size is what the others say."""
    for name in values.sizes:
        slope = difference.get((Var(name),), 0)
        rest = poly.add(difference, {(Var(name),): slope}, -1)
        if abs(slope) == 1 and not any(name in free_vars(x) for m in rest for x in m):
            return values.assume_equal(Var(name), poly.to_expr(poly.scale(rest, -slope)))
    return False


def _is_skewed(values: Values, e: Load) -> bool:
    if not values.pairwise(e.index):
        return False
    parts = [x for i in e.index for x in walk(i) if isinstance(x, Op) and x.name in _AWKWARD]
    return any(values.pairwise((x,)) for x in parts)


def _under(values: Values, e: Expr, known: Sequence[Expr]) -> Expr:
    match e:
        case Load():
            return _facts(values, known).simplify(e) if _is_skewed(values, e) else e
        case Op("where", (condition, a, b)):
            condition = _facts(values, known).simplify(condition)
            if isinstance(condition, Const):
                return _under(values, a if condition == TRUE else b, known)
            otherwise = values.simplify(op("not", condition))
            yes, no = (_under(values, x, [*known, *conjuncts(c)]) for x, c in ((a, condition), (b, otherwise)))
            return op("where", condition, yes, no)
        case Op():
            live = [_live(x) if e.name in ("+", "-") else TRUE for x in e.args]
            # an addend of -inf hides the others, and stays itself
            under = [*known, *(c for x in live for c in conjuncts(values.simplify(x)))]
            terms = [_under(values, x, under if own == TRUE else known) for x, own in zip(e.args, live, strict=True)]
            return e.rebuild(tuple(terms))
    return e


def _live(e: Expr) -> Expr:
    """Where an addend is finite, if it is one or the other."""
    match e:
        case Op("where", (condition, a, b)) if holds_infinity(a) != holds_infinity(b):
            if isinstance(b if holds_infinity(b) else a, Const):
                return condition if holds_infinity(b) else op("not", condition)
    return TRUE


def _facts(values: Values, known: Sequence[Expr]) -> Facts:
    """What is known about pairs where all these conditions hold: a key's place by that of the row."""
    ranges = dict(values.facts.ranges)
    for condition in known:
        match condition:
            case Op("<" | "<=" | ">" | ">=" as name, (a, b)):
                low, high = (b, a) if name in (">", ">=") else (a, b)
                rest = poly.add(poly.of_expr(high), poly.of_expr(low), -1)  # at least zero
                if "=" not in name:
                    rest = poly.add(rest, poly.constant(-1))
                _learn(values, ranges, rest)
    witness = {k: v for k, v in values.graph.hints.items() if isinstance(v, int)}
    return Facts(ranges, values.graph.guards, witness)


def _learn(values: Values, ranges: dict[str, tuple[Expr | None, Expr | None]], rest: poly.Poly) -> None:
    """Bound the one key that ``rest >= 0`` counts by one."""
    for name in sorted(values.keys):
        slope = rest.get((Var(name),), 0)
        if (
            abs(slope) != 1
            or name not in ranges
            or any(name in free_vars(x) for m in rest for x in m if x != Var(name))
        ):
            continue
        limit = poly.to_expr(poly.scale(poly.add(rest, {(Var(name),): slope}, -1), -slope))
        low, high = ranges[name]
        if slope > 0:
            ranges[name] = op("max", low, limit) if low is not None else limit, high
        else:
            ranges[name] = low, op("min", high, limit) if high is not None else limit
        return
