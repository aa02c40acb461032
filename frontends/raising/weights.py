"""The weights of an attention: what is exponentiated, what is masked, what divides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from ...ir.expr import TRUE, Const, Expr, Load, Op, Var, kind_of, op, rewrite, substitute, walk
from ..graph import Node
from .logarithm import logarithm
from .score import split_mask
from .terms import NoMatch, addends, factors, product, total, uses
from .values import Values


@dataclass
class Weights:
    """``product of exp(scores) * masks * factors / dens``; ``softmax`` is the element of a softmax among them."""

    scores: list[Expr] = field(default_factory=list)
    masks: list[Expr] = field(default_factory=list)
    dens: list[Expr] = field(default_factory=list)
    softmax: Load | None = None
    raw: Expr = Const(1.0)  # the product without dens, to compare with the normaliser's
    factors: list[Expr] = field(default_factory=list)  # what is neither: part of the score where a sum divides


class SplitError(Exception):
    """The keys have to be split where a piece of a ``cat`` ends."""

    def __init__(self, at: Expr):
        super().__init__(str(at))
        self.at = at


def read_weights(values: Values, term: Expr, key: str) -> Weights:
    """Read an element of the weights of key variable ``key``."""
    term = rewrite(term, _piecewise_out(values, key))
    found = Weights()
    numerator: list[Expr] = []
    _read(values, term, key, found, numerator)
    found.raw = product(numerator)
    if not found.scores and found.softmax is None and not found.factors:
        raise NoMatch("the weights are not the exponential of a score, so this is not a softmax")
    return found


def plain_weights(values: Values, term: Expr, key: str) -> Weights:
    """Weights that nothing normalises: the score itself, 0 where a mask says so."""
    term = rewrite(term, _piecewise_out(values, key))
    if any(isinstance(x, Op) and x.name in ("exp", "exp2") for x in walk(term)):
        raise NoMatch("the weights are exponentials that nothing normalises")
    term = rewrite(term, lambda x: _normalised_elsewhere(values, x, key) if isinstance(x, Load) else None)
    masks: list[Expr] = []
    return Weights([_unmasked(term, masks)], masks, raw=term)


def _normalised_elsewhere(values: Values, e: Load, key: str) -> Expr | None:
    """A softmax over something else than the summed keys: ``exp(score - lse)``, and the kernel reads ``lse``."""
    node = values.node_of(e)
    if node.op != "softmax" or not values.pairwise(e.index):
        return None
    axis = node["dim"] if isinstance(node["dim"], int) else node["dim"][0]
    if uses(e.index[axis], key):
        raise NoMatch("the weights are a softmax that something else multiplies")
    live, score = split_mask(values.simplify(values.at(node["input"], e.index)), values.sizes)
    sum = values.logsumexp(node["input"], axis)
    weight = op("exp", score - Load(f"%{sum.name}", (*e.index[:axis], *e.index[axis + 1 :]), "float"))
    return weight if live == TRUE else op("where", live, weight, 0.0)


def _unmasked(term: Expr, masks: list[Expr]) -> Expr:
    """``term`` where the ``masks`` hold that are taken off it; elsewhere it is 0."""
    match term:
        case Op("where", (cond, a, Const(value))) if value == 0:
            masks.append(cond)
            return _unmasked(a, masks)
        case Op("where", (cond, Const(value), a)) if value == 0:
            masks.append(op("not", cond))
            return _unmasked(a, masks)
        case Op("*", (a, b)):
            return _unmasked(a, masks) * _unmasked(b, masks)
        case Op("/", (a, b)):
            return _unmasked(a, masks) / b
    return term


def _read(values: Values, term: Expr, key: str, found: Weights, numerator: list[Expr]) -> None:
    num, den = factors(term)
    found.dens += den
    for f in num:
        match f:
            case Const(value) if value == 1:
                pass
            case Op("exp", (x,)) | Op("exp2", (x,)) | Op("pow", (Const(), x)):
                numerator.append(_read_exponent(values, f, x, found))
            case Op("where", (Load() as cond, Const(value), a)) if value == 0 and _is_nan_of(values, cond, a):
                _read(values, a, key, found, numerator)  # as with nan_to_num below
            case Op("where", (cond, a, Const(value))) if value == 0:
                if a != Const(1.0):
                    inner: list[Expr] = []
                    _read(values, a, key, found, inner)
                    numerator.append(op("where", cond, product(inner), Const(0.0)))
                else:
                    numerator.append(f)
                found.masks.append(cond)
            case Op("where", (cond, Const(value) as zero, a)) if value == 0:
                inner = []
                _read(values, a, key, found, inner)
                numerator.append(op("where", cond, zero, product(inner)))
                found.masks.append(op("not", cond))
            case Load() if values.node_of(f).op == "softmax":
                numerator.append(f)
                _set_softmax(found, f)
            case Load() if values.node_of(f).op == "nan_to_num" and not values.node_of(f).args.get("nan"):
                # only a row without a live key is NaN, and there attention gives 0 as well
                _read(values, values.at(values.node_of(f)["input"], f.index), key, found, numerator)
            case Op("where", (cond, a, b)) if (split := _alike(values, cond, a, b, key)) is not None:
                common, rest = split
                _read(values, common, key, found, [])
                found.factors.append(rest)
                numerator.append(f)
            case _:
                found.factors.append(f)
                numerator.append(f)


def _is_nan_of(values: Values, cond: Load, a: Expr) -> bool:
    node = values.node_of(cond)
    return node.op == "isnan" and values.at(node["input"], cond.index) == a


def _alike(values: Values, cond: Expr, a: Expr, b: Expr, key: str) -> tuple[Expr, Expr] | None:
    """``where(cond, a, b)`` as what both weights have in common, for all keys, and the choice of what they have not."""
    match cond:
        case Op("not", (inner,)):
            cond, a, b = inner, b, a
    at: dict[str, Expr] = {}
    match cond:
        case Op("==", (Var(name), x)) | Op("==", (x, Var(name))) if name == key:
            at = {key: x}
    (of_a, over_a), (of_b, over_b) = factors(a), factors(b)
    common: list[Expr] = []
    for f in list(of_b):
        same = next((x for x in of_a if x in (f, values.simplify(substitute(f, at)))), None)
        if same is not None:
            of_a.remove(same)
            of_b.remove(f)
            common.append(f)
    if not common or over_a or over_b or not any(_weighty(values, f) for f in common):
        return None
    return product(common), op("where", cond, product(of_a), product(of_b))


def check_factors(values: Values, w: Weights) -> None:
    """Weights that only a softmax normalises: whatever multiplies them makes their sum another."""
    if w.factors:
        raise NoMatch(f"the weights are multiplied by {_describe(values, w.factors[0])} after the softmax")


def read_factors(values: Values, w: Weights) -> None:
    """Weights that their own sum divides: what multiplies them is part of the score."""
    sure = not w.scores and w.softmax is None
    w.scores += [logarithm(values, f, sure) for f in w.factors]
    w.factors = []


def _read_exponent(values: Values, f: Expr, x: Expr, found: Weights) -> Expr:
    """Read ``exp(x)``; returns it without a normaliser that was subtracted inside."""
    base = 2.0 if f.name == "exp2" else f.args[0].value if f.name == "pow" else math.e  # type: ignore[attr-defined]
    if not base > 0:
        raise NoMatch("the base of the weights' power is not positive")
    rest: list[tuple[int, Expr]] = []
    inside = False
    nodes = [values.node_of(term) if isinstance(term, Load) else None for _, term in addends(x)]
    # scores that were normalised before hold such sums as well: the last one is over all of the others
    last = max((n.id for n in nodes if n is not None and n.op == "logsumexp"), default=-1)
    for (sign, term), node in zip(addends(x), nodes, strict=True):
        if node is not None and sign > 0 and node.op == "log_softmax" and base == math.e:
            inside = True
            _set_softmax(found, term)  # type: ignore[arg-type]
        elif node is not None and sign < 0 and node.id == last and base == math.e:
            inside = True
            found.dens.append(op("exp", term))
        else:
            rest.append((sign, term))
    if found.softmax is None or rest:
        score = total(rest)
        found.scores.append(score if base == math.e else score * math.log(base))
    return op("exp", total(rest)) if inside and rest else f


def _set_softmax(found: Weights, f: Load) -> None:
    if found.softmax is not None:
        raise NoMatch("the weights are a product of two softmaxes")
    found.softmax = f


def _piecewise_out(values: Values, key: str) -> Callable[[Expr], Expr | None]:
    def check(e: Expr) -> Expr | None:
        match e:
            case Op("where", (cond, a, b)) if cond in values.cat_conditions:
                x, end = values.cat_conditions[cond]
                if uses(x, key) and (_weighty(values, a) or _weighty(values, b)):
                    raise SplitError(boundary(values, x, end, key))
        return None

    return check


def boundary(values: Values, x: Expr, end: Expr, key: str) -> Expr:
    at = values.simplify(end - (x - Var(key)))
    if uses(at, key):
        raise NoMatch(
            "pieces of a concatenation meet at a place that is not one key; if this is a relative shift, mask the keys "
            "to which it brings products of another query, or clip the distance"
        )
    return at


def _weighty(values: Values, e: Expr) -> bool:
    """Does a term hold an exponential, a softmax or an inner product?"""
    match e:
        case Op("exp" | "exp2", _):
            return True
        case Load():
            return values.node_of(e).op in ("softmax", "matmul", "einsum", "sum", "log_softmax", "exp")
    return any(_weighty(values, c) for c in e.children)


def _describe(values: Values, f: Expr) -> str:
    if isinstance(f, Load):
        node: Node = values.node_of(f)
        return f"the result of {node.op} ({node.location})"
    return "a number" if isinstance(f, Const) else f"a factor of kind {kind_of(f)}"
