"""Is what divides the sum of exactly what is summed?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...ir.expr import Const, Expr, Load, Op, Var, conjuncts, loads, op
from .contract import Contractions
from .score import split_mask
from .terms import NoMatch, addends, product, total
from .values import Values
from .weights import Weights, check_factors, read_factors, read_weights


@dataclass
class Part:
    """The weights of one range of keys."""

    var: Var
    extent: Expr
    weights: Weights


Term = Callable[[Expr], Expr]  # key -> element of what the normaliser sums


def cover(values: Values, contractions: Contractions, parts: list[Part]) -> list[Part]:
    """The parts, and for keys that only the normaliser counts (a sink) parts of their own.

    Raises :class:`NoMatch` unless the weights are normalised by a softmax over all parts together.
    """
    dens = parts[0].weights.dens
    if any(p.weights.dens != dens for p in parts[1:]):
        raise NoMatch("the products that are added have different normalisers")
    if not dens:
        for p in parts:
            check_factors(values, p.weights)
        return _softmax_cover(values, parts)
    den = product(dens)
    result: list[Part] = []
    left = list(parts)
    for sign, term in addends(_without_guard(values, den, parts)):
        if sign < 0:
            raise NoMatch("the normaliser is a difference")
        result += _sum_cover(values, contractions, term, left)
    if left:
        raise NoMatch("some of the weights are missing in the normaliser")
    _check_one_softmax(values, result)
    for p in result:
        read_factors(values, p.weights)
    return result


def _check_one_softmax(values: Values, parts: list[Part]) -> None:
    """Renormalised softmaxes: what each was divided by cancels only where all of the sum was divided by the same."""
    found = [p.weights.softmax for p in parts]
    softmaxes = [f for f in found if f is not None]
    if not softmaxes:
        return
    first = softmaxes[0]
    node = values.node_of(first)
    if len(softmaxes) < len(found):
        raise NoMatch("the normaliser adds something to the sum of a softmax's weights", node.location)
    axis = _axis(node["dim"])
    if any(f.tensor != first.tensor or _elsewhere(f, axis) != _elsewhere(first, axis) for f in softmaxes):
        raise NoMatch("the weights that are normalised together come from different softmaxes", node.location)


def _softmax_cover(values: Values, parts: list[Part]) -> list[Part]:
    first = parts[0].weights.softmax
    if first is None:
        raise NoMatch("the weights are exponentials that nothing normalises")
    node = values.node_of(first)
    axis = _axis(node["dim"])
    for p in parts:
        w = p.weights
        if w.softmax is None or w.softmax.tensor != first.tensor:
            raise NoMatch("the products that are added come from different softmaxes", node.location)
        if w.scores:
            raise NoMatch("the softmax is multiplied by another exponential", node.location)
        if _elsewhere(w.softmax, axis) != _elsewhere(first, axis):
            raise NoMatch("the products that are added read different rows of the softmax", node.location)
        _check_masks_repeat(values, w)
    extent = node["input"].shape[axis]

    def element(at: Expr) -> Expr:
        return Load(first.tensor, (*first.index[:axis], at, *first.index[axis + 1 :]), first.kind)

    left = list(parts)
    result = _tile(values, element, extent, left, lambda p: p.weights.softmax)
    if left:
        raise NoMatch("the weights are not a partition of the softmax's keys", node.location)
    return result


def _check_masks_repeat(values: Values, w: Weights) -> None:
    """Weights masked after the softmax must have been masked before it as well, or the sum is not 1."""
    if not w.masks:
        return
    assert w.softmax is not None
    node = values.node_of(w.softmax)
    live, _ = split_mask(values.simplify(values.at(node["input"], w.softmax.index)), values.sizes)
    known = set(conjuncts(values.simplify(live)))
    for mask in w.masks:
        for term in conjuncts(values.simplify(mask)):
            if term not in known and not _any_of_row(values, term):
                raise NoMatch("the weights are masked after the softmax, so they no longer sum to 1", node.location)
    w.masks = []


def _any_of_row(values: Values, term: Expr) -> bool:
    """``mask.any(-1)``: false only in rows where attention gives 0 anyway."""
    return isinstance(term, Load) and values.node_of(term).op == "any"


def _sum_cover(values: Values, contractions: Contractions, term: Expr, left: list[Part]) -> list[Part]:
    found = contractions.sum_of(term)
    if found is not None:
        return _tile(values, lambda at: found.at(values, at), found.extent, left, lambda p: p.weights.raw)
    match term:
        case Const(c) if c > 0:  # 1 + sum: a sink whose score is the logarithm
            var = values.fresh("j", Const(1))
            values.keys.add(var.name)
            return [Part(var, Const(1), Weights([Const(math.log(c))], [], [], None, term))]
        case Op("exp", (Load() as inner,)) if values.node_of(inner).op == "logsumexp":
            return _logsumexp_cover(values, inner, left)
        case Op("exp", _):
            var = values.fresh("j", Const(1))
            values.keys.add(var.name)
            return [Part(var, Const(1), read_weights(values, term, var.name))]
        case Load():
            node = values.node_of(term)
            if node.op == "exp":  # of something without keys: a sink's share of the sum
                var = values.fresh("j", Const(1))
                inner = values.at(node["input"], term.index)
                return [Part(var, Const(1), Weights([inner], [], [], None, term))]
            raise NoMatch(f"the weights are divided by the result of {node.op}, which is not their sum", node.location)
    raise NoMatch("the normaliser is not the sum of the weights")


def _logsumexp_cover(values: Values, e: Load, left: list[Part]) -> list[Part]:
    node = values.node_of(e)
    source = node["input"]
    dims = node["dim"]
    (axis,) = dims if isinstance(dims, tuple | list) else (dims,)
    axis %= source.rank
    others = list(e.index)
    if node["keepdim"]:
        del others[axis]

    def element(at: Expr) -> Expr:
        index = (*others[:axis], at, *others[axis:])
        return op("exp", values.simplify(values.at(source, index)))

    return _tile(values, element, source.shape[axis], left, lambda p: p.weights.raw)


def _tile(
    values: Values, element: Term, extent: Expr, left: list[Part], raw: Callable[[Part], Expr | None]
) -> list[Part]:
    """Parts that cover keys ``[0, extent)`` of ``element``; a gap becomes a part without values."""
    result: list[Part] = []
    begin: Expr = Const(0)
    while not values.same_size(begin, extent):
        part = next((p for p in left if _equal(values, element(_shifted(values, p.var, begin)), raw(p))), None)
        if part is None:
            end = _next_begin(values, element, begin, extent, left, raw)
            gap = values.simplify(end - begin)
            var = values.fresh("j", gap)
            values.keys.add(var.name)
            term = element(_shifted(values, var, begin))
            weights = Weights(softmax=term) if isinstance(term, Load) else read_weights(values, term, var.name)
            result.append(Part(var, gap, weights))
            begin = end
            continue
        left.remove(part)
        result.append(part)
        begin = values.simplify(begin + part.extent)
        if not left and not values.same_size(begin, extent):
            values.assume_equal(begin, extent)
    return result


def _next_begin(
    values: Values, element: Term, begin: Expr, extent: Expr, left: list[Part], raw: Callable[[Part], Expr | None]
) -> Expr:
    """Where the next part begins, if one fills the end of the range; else the end of the range."""
    rest: Expr = Const(0)
    for p in left:
        rest = rest + p.extent
    start = values.simplify(extent - rest)
    for p in left:
        if start != begin and _equal(values, element(_shifted(values, p.var, start)), raw(p)):
            return start
    if left:
        raise NoMatch("the normaliser does not sum the weights that are used")
    return extent


def _equal(values: Values, a: Expr, b: Expr | None) -> bool:
    return b is not None and (a == b or values.simplify(a) == values.simplify(b))


def _shifted(values: Values, var: Var, begin: Expr) -> Expr:
    return values.simplify(var + begin)


def _axis(dim: object) -> int:
    return dim if isinstance(dim, int) else dim[0]  # type: ignore[index]


def _elsewhere(e: Load, axis: int) -> tuple[Expr, ...]:
    return e.index[:axis] + e.index[axis + 1 :]


def _without_guard(values: Values, den: Expr, parts: list[Part]) -> Expr:
    """``max(sum, tiny)`` or ``sum + tiny``, the row maximum subtracted: a sum is at least 1.

    The first is meant for rows without a live key as well, where attention gives 0 either way.
    """
    match den:
        case Op("max", (x, Const(c))) if 0 < c <= 1 and _has_peak(values, parts):
            return x
        case Op("+", (Load() as x, Const(c))) if 0 < c <= torch.finfo(values.node_of(x).dtype).eps / 4:
            # nothing so small changes a sum of 1 or more
            return x if not any(p.weights.masks for p in parts) and _has_peak(values, parts) else den
    return den


def _has_peak(values: Values, parts: list[Part]) -> bool:
    """Are the weights exponentials of scores without the maximum of all of them, so that one of a row is 1?"""
    begin: Expr = Const(0)
    for p in parts:
        if p.weights.softmax is not None or p.weights.factors or not _without_peak(values, p, begin):
            return False
        begin = begin + p.extent
    return True


def _without_peak(values: Values, part: Part, begin: Expr) -> bool:
    w = part.weights
    for e in loads(total([(1, x) for x in w.scores])):
        node = values.node_of(e)
        dims = node["dim"] if node.op == "amax" else ()
        axes = dims if isinstance(dims, tuple | list) else (dims,)
        if len(axes) != 1:
            continue
        axis = axes[0]
        index = (*e.index[:axis], _shifted(values, part.var, begin), *e.index[axis + bool(node["keepdim"]) :])
        scores = values.simplify(values.at(node["input"], index))
        if values.simplify(total([(1, x) for x in w.scores])) == values.simplify(scores - e):
            known = set(conjuncts(values.simplify(split_mask(scores, values.sizes)[0])))
            return all(term in known for mask in w.masks for term in conjuncts(values.simplify(mask)))
    return False
