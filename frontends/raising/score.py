"""The score of one source: what is masked, and the rest as an expression of one inner product."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ...ir.expr import FALSE, TRUE, Const, Expr, Load, Op, Var, all_of, op, rewrite
from .contract import Contraction, Contractions
from .joined import join
from .relative import tabulated
from .skew import unskewed
from .terms import NEG_INF, NoMatch, addends, holds_infinity, total, uses
from .values import Values

DOT = Var("dot", "float")


@dataclass(frozen=True)
class Score:
    """``score`` where ``mask``, else -inf; ``product`` is the inner product that ``dot`` stands for."""

    mask: Expr
    score: Expr
    product: Contraction | None


def split_mask(e: Expr, sizes: Collection[str]) -> tuple[Expr, Expr]:
    """``(mask, finite)`` with ``e = finite where mask, else -inf``; ``sizes`` are names that are at least 1."""
    if not holds_infinity(e):
        return TRUE, e
    match e:
        case Const() if e == NEG_INF:
            return FALSE, Const(0.0)
        case Op("where", (cond, a, b)):
            (live_a, a), (live_b, b) = split_mask(a, sizes), split_mask(b, sizes)
            live = op("or", op("and", cond, live_a), op("and", op("not", cond), live_b))
            if live_b == FALSE:
                live = op("and", cond, live_a)
            elif live_a == FALSE:
                live = op("and", op("not", cond), live_b)
            elif live_a == live_b == TRUE:
                live = TRUE
            return live, a if live_b == FALSE else b if live_a == FALSE else op("where", cond, a, b)
        case Op("+" | "-" as name, (a, b)):
            (live_a, a), (live_b, b) = split_mask(a, sizes), split_mask(b, sizes)
            if name == "+" or live_b == TRUE:
                return op("and", live_a, live_b), op(name, a, b)
        case Op("*", (a, k)) if is_positive(k, sizes):
            live, a = split_mask(a, sizes)
            return live, a * k
        case Op("*", (k, a)) if is_positive(k, sizes):
            live, a = split_mask(a, sizes)
            return live, k * a
        case Op("/", (a, k)) if is_positive(k, sizes):
            live, a = split_mask(a, sizes)
            return live, a / k
    raise NoMatch("a minus infinity in the score is used in a way that is not a mask")


def is_positive(e: Expr, sizes: Collection[str]) -> bool:
    """Is ``e`` above zero whatever the call?  A factor that is keeps -inf what it is."""
    match e:
        case Const(value):
            return value > 0
        case Var(name):
            return name in sizes
        case Op("pow", (a, _)) | Op("sqrt" | "float", (a,)):
            return is_positive(a, sizes)
        case Op("*" | "/" | "+", args):
            return all(is_positive(a, sizes) for a in args)
        case Op("exp" | "exp2", _):
            return True
    return False


def read_score(values: Values, contractions: Contractions, terms: list[Expr], masks: list[Expr]) -> Score:
    """The sum of ``terms`` as a mask and an expression of ``dot``."""
    lives, finites = [], []
    for term in terms:
        live, finite = split_mask(term, values.sizes)
        lives.append(live)
        finites.append(finite)
    mask = all_of([*lives, *masks])
    score = unskewed(values, total([(1, f) for f in finites]), mask)
    products = [x for x in _loads(score) if values.pairwise(x.index) and contractions.of(x) is not None]
    for x in _loads(mask):
        if values.pairwise(x.index) and contractions.of(x) is not None:
            raise NoMatch("the mask depends on an inner product", values.node_of(x).location)
    score, products = tabulated(values, contractions, score, products)
    if len(products) > 1:
        found = {x: c for x in products if (c := contractions.of(x)) is not None}
        score, product = join(values, score, found, DOT)
        return Score(mask, score, product)
    if not products:
        return Score(mask, score, None)
    product = contractions.of(products[0])
    score = rewrite(score, lambda x: DOT if x == products[0] else None)
    return Score(mask, score, product)


def _loads(e: Expr) -> list[Load]:
    if isinstance(e, Op) and e.name == "inner":
        return []  # of a kernel's own
    if isinstance(e, Load):
        return [e, *(x for i in e.index for x in _loads(i))]
    return list(dict.fromkeys(x for c in e.children for x in _loads(c)))


def drop_common_shift(scores: list[Expr], keys: list[str]) -> list[Expr]:
    """Leave out addends that no key variable occurs in and that all scores share: a softmax does not see them."""
    free = [
        [t for t in addends(s) if not uses(t[1], k) and t[1] != DOT and not _has_dot(t[1])]
        for s, k in zip(scores, keys, strict=True)
    ]
    common = [t for t in free[0] if all(t in f for f in free[1:])]
    return [total([t for t in addends(s) if t not in common]) for s in scores] if common else scores


def _has_dot(e: Expr) -> bool:
    return e == DOT or any(_has_dot(c) for c in e.children)


def fold_scale(e: Expr) -> Expr:
    """``x * c1 * c2`` and ``x * c1 / c2`` of constants as ``x * c``."""

    def rule(x: Expr) -> Expr | None:
        match x:
            case Op("*", (Op("*", (a, Const(float() as c1))), Const(c2))):
                return op("*", a, c1 * c2)
            case Op("/", (Op("*", (a, Const(float() as c1))), Const(c2))) if c2:
                return op("*", a, c1 / c2)
            case Op("*", (Const(float() as c1), a)) if not isinstance(a, Const):
                return rule(op("*", a, c1)) or op("*", a, c1)
        return None

    return rewrite(e, rule)
