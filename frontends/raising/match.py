"""From a traced value to an attention: ``out = sum over keys of weights * values``.

Steps: split the value into products of weights and values; read the weights; check that what divides is the sum
of what is summed; read the scores; find the query row; write the maps.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch

from ...ir.expr import FALSE, TRUE, Const, Expr, Load, Op, Var, free_vars, substitute, walk, without_inners
from ..graph import Input, Node
from .attempt import attempt
from .contract import Contraction, Contractions, Element
from .elementwise import ELEMENTWISE
from .finish import Candidate, CandidateSource, finish
from .gates import placed, ungated
from .normaliser import Part, cover
from .notes import elements
from .peel import Peeled, joint, peel
from .plan import AttendPlan, Gate
from .roles import weighs
from .score import DOT, Score, drop_common_shift, fold_scale, read_score
from .skew import unskewed
from .terms import NoMatch, addends, factors, load, uses
from .values import SCATTERS, Values
from .views import VIEWS
from .weights import SplitError, Weights, boundary, plain_weights, read_weights

ROOTS = frozenset({"matmul", "einsum", "sum", "add", "div", "mul", "scaled_dot_product_attention", "logsumexp"})
_WEIGHTY = frozenset({"softmax", "log_softmax", "exp", "exp2", "pow", "sdpa_score"})


@dataclass(frozen=True)
class _Piece:
    """One product of weights and values: a range of keys."""

    var: Var
    extent: Expr
    weights: Element
    values: Element | None
    dens: tuple[Expr, ...]
    gates: tuple[Gate, ...] = ()  # factors of the values
    total: bool = False  # the sum of the weights


class Matcher:
    """Finds the attentions of one graph."""

    def __init__(self, values: Values, contractions: Contractions):
        self.values, self.contractions = values, contractions
        self._weighty: dict[str, bool] = {}
        self._scored: dict[str, bool] = {}
        self._found: dict[str, AttendPlan | NoMatch] = {}
        self._attended: dict[str, bool] = {}

    def match(self, node: Node) -> AttendPlan:
        """The attention that computes ``node``.  Raises :class:`NoMatch`."""
        if node.op not in ROOTS:
            raise NoMatch(loud=False)
        if node.name not in self._found:
            outer = self.values.rows, self.values.keys  # of an attention that asks about what it reads
            try:
                with self._attempt():
                    plan = self._match(node)
                self._found[node.name] = plan
            except NoMatch as error:
                self._found[node.name] = error
            finally:
                self.values.rows, self.values.keys = outer
        found = self._found[node.name]
        if isinstance(found, NoMatch):
            raise found
        return found

    def forget(self) -> None:
        """Nodes have become other ops."""
        for memo in (self._found, self._weighty, self._scored, self._attended):
            memo.clear()

    def _attempt(self) -> AbstractContextManager[None]:
        return attempt(self.values, self._found, *self.contractions.memos)

    def _match(self, node: Node) -> AttendPlan:
        values = self.values
        values.rows, values.keys = set(), set()
        if node.op == "logsumexp":
            return self._log_sum_exp(node)
        index = tuple(values.fresh("x", size) for size in node.shape)
        pieces = self._pieces(node, index)
        if pieces[0].total:
            return self._unnormalised(node, index, pieces)
        try:
            try:
                with self._attempt():
                    return self._attention(node, index, pieces)
            except NoMatch:
                opened, gates = self._ungated(node, index, pieces)
                if opened == pieces:
                    raise
                with self._attempt():
                    plan = self._attention(node, index, opened)
                return replace(
                    plan, gates=tuple(placed(g, {x.name: n for n, x in enumerate(index)}, node) for g in gates)
                )
        except NoMatch as error:
            try:
                return self._unnormalised(node, index, pieces)
            except NoMatch:
                pass
            if all(self._is_small(p.weights[0]) for p in pieces):
                raise NoMatch(loud=False) from None
            error.attention = any(self._scores(p.weights[0]) for p in pieces)
            raise

    def _unnormalised(self, node: Node, index: tuple[Var, ...], pieces: list[_Piece]) -> AttendPlan:
        """The scores are the weights, as in a ReLU of inner products: there is no softmax."""
        if any(p.dens for p in pieces):
            # the product by itself may be one; what divides it, each row of it or each feature, is not read here
            raise NoMatch("the weights are divided by what is not their sum", node.location)
        plan = self._attention(node, index, pieces, shifts=False, plain=True)
        if all(s.mask == TRUE and _is_linear(s.score) for s in plan.sources):
            # PyTorch multiplies in the order in which it is written: q @ (k.mT @ v), say, which attends to features
            raise NoMatch("the weights are inner products that nothing is done to", node.location)
        keyed = {n for s in plan.sources for e in s.key_map for n in free_vars(e)}
        valued = {n for s in plan.sources for e in s.value_map for n in free_vars(e)}
        asked = {n for e in plan.query_map for n in free_vars(e)}
        batch = {n for n, _ in plan.dims[:-1]}
        for sum in [n for n in plan.captures if n.op == "logsumexp"]:
            self.match(sum)
        read = [x for s in plan.sources for x in walk(without_inners(s.score)) if isinstance(x, Load)]
        known = [n for n in plan.captures if isinstance(n, Input)] + plan.tables()
        unread = [x for x in read if {"i", "j"} <= free_vars(x) and self.values.node_of(x) not in known]
        if plan.query is None or unread or (valued & batch) - keyed or not asked & keyed & batch:
            # the layers of a perceptron, say
            raise NoMatch("the weights are not normalised by a softmax", node.location, attention=True)
        return replace(plan, normaliser="none")

    def _ungated(
        self, node: Node, index: tuple[Var, ...], pieces: list[_Piece]
    ) -> tuple[list[_Piece], tuple[Gate, ...]]:
        """The pieces without factors between softmax and values, and those factors that the result keeps."""
        result, gates = [], []
        for p in pieces:
            assert p.values is not None
            found = ungated(self.values, p.weights, p.var.name, _vars(self.values, p.values), self.weighty)
            result.append(replace(p, weights=found.weights, gates=found.keys))
            gates.append(found.rows)
        if any(g != gates[0] for g in gates[1:]):
            raise NoMatch(
                "the products that are added are multiplied by different factors after the softmax", node.location
            )
        return result, gates[0]

    def _log_sum_exp(self, node: Node) -> AttendPlan:
        """The log-sum-exp of scores that a function returns or reads by itself."""
        values = self.values
        source: Node = node["input"]
        axes = node["dim"]
        if not self._scores(source) or (not isinstance(axes, int) and len(axes) != 1):
            raise NoMatch(loud=False)
        axis = axes if isinstance(axes, int) else axes[0]
        shape = (*source.shape[:axis], *source.shape[axis + 1 :])
        bare = values.new_node("logsumexp", source, shape=shape, dtype=node.dtype, location=node.location)
        softmax = values.new_node("softmax", source, args={"input": source, "dim": axis}, location=node.location)
        index = tuple(values.fresh("x", size) for size in shape)
        key = values.fresh("j", source.shape[axis])
        element = softmax, (*index[:axis], key, *index[axis:])
        try:
            plan = self._attention(bare, index, [_Piece(key, source.shape[axis], element, None, ())], shifts=False)
        except NoMatch as error:
            raise NoMatch(error.reason, error.location or node.location, error.loud, attention=True) from None
        names = tuple(plan.out_map)
        lse_map = (*names[:axis], Const(0), *names[axis:]) if node["keepdim"] else names
        return replace(plan, lse=node, lse_map=lse_map, wants_out=False)

    def _attention(
        self, node: Node, index: tuple[Var, ...], pieces: list[_Piece], shifts: bool = True, plain: bool = False
    ) -> AttendPlan:
        values = self.values
        names = [x.name for x in index]
        for piece in pieces:
            of_values = _vars(values, piece.values) if piece.values else frozenset()
            values.keys.add(piece.var.name)
            values.rows |= {n for n in names if n not in of_values and n in _index_vars(piece.weights)}
        parts = self._parts(pieces, plain)
        target = node.dtype
        feature = self._feature(names, parts)
        width = values.static(node.shape[names.index(feature)]) if feature else 1
        sources = self._sources(parts, names, feature, target, shifts, plain)
        return finish(values, Candidate(node, names, feature, width, sources, target))

    # ---- products

    def _pieces(self, node: Node, index: tuple[Expr, ...]) -> list[_Piece]:
        values, contractions = self.values, self.contractions
        root = values.composites.get(node.name, node)
        pieces: list[_Piece] = []
        whole, over = factors(_root_term(values, root, index))
        whole = [f for f in whole if f not in (Const(1.0), Const(1))]
        if len(whole) != 1:
            raise NoMatch(loud=False)
        for sign, term in addends(whole[0]):
            num, den = factors(term)
            den = den + over
            sums = [f for f in num if contractions.of(f) is not None]
            rest = [f for f in num if f not in sums and f not in (Const(1.0), Const(1))]
            if not sums and num == whole and root.op == "sum":
                return [self._total(root, index)]
            if len(sums) != 1 or rest or sign < 0:
                raise NoMatch(loud=False)
            c = contractions.of(sums[0])
            assert c is not None
            weights, operand = self._orient(c, node)
            pieces.append(_Piece(c.variable, c.extent, weights, operand, tuple(den)))
        return pieces

    def _total(self, node: Node, index: tuple[Expr, ...]) -> _Piece:
        """The sum of what may be weights, as a product with values of 1."""
        found = self.contractions.sum_of(load(node, index))
        if found is None or not self._scores(node["input"]) or self.weighty(node["input"]) or found.body[0].rank < 2:
            raise NoMatch(loud=False)
        one = self.values.made("ones", f"torch.ones(1, dtype={node.dtype}, device=device)", (), (Const(1),), node)
        return _Piece(found.variable, found.extent, found.body, (one, (Const(0),)), (), total=True)

    def _orient(self, c: Contraction, node: Node) -> tuple[Element, Element]:
        values = self.values
        left, right = self.weighty(c.left[0]), self.weighty(c.right[0])
        if left != right:
            return (c.left, c.right) if left else (c.right, c.left)
        if left:
            # a gate of the values may hold an exponential too
            a, b = (weighs(values, *x, c.variable.name, self.weighty) for x in (c.left, c.right))
            if a != b:
                return (c.left, c.right) if a > b else (c.right, c.left)
            raise NoMatch("both operands of this product hold an exponential", node.location)
        for weights, operand in ((c.left, c.right), (c.right, c.left)):
            # a batch of values for a batch of weights: not the layers of a perceptron
            if (
                self._scores(weights[0])
                and not self._attends(weights[0])
                and (_index_vars(weights) & _index_vars(operand)) - {c.variable.name}
                and not (isinstance(operand[0], Input) and operand[0].source[0] == "capture")
            ):
                return weights, operand
        raise NoMatch(loud=False)

    def weighty(self, node: Node) -> bool:
        """Does elementwise arithmetic on an exponential or a softmax give this?"""
        if node.name not in self._weighty:
            self._weighty[node.name] = False  # cycles cannot be, but deep chains ask twice
            self._weighty[node.name] = node.op in _WEIGHTY or (
                _transparent(node) and any(self.weighty(x) for x in node.inputs)
            )
        return self._weighty[node.name]

    def _scores(self, node: Node) -> bool:
        """Does elementwise arithmetic on an inner product give this?"""
        if node.name not in self._scored:
            self._scored[node.name] = node.op in ("matmul", "einsum", "scaled_dot_product_attention") or (
                (_transparent(node) or node.op in _WEIGHTY) and any(self._scores(x) for x in node.inputs)
            )
        return self._scored[node.name]

    def _is_small(self, node: Node) -> bool:
        """A bare product, no larger than what it is made of: the sum over keys in linear attention."""
        while node.op in VIEWS:
            node = node["input"]
        if node.op not in ("matmul", "einsum"):
            return False
        size, *sizes = (self.values.hint(elements(self.values, x)) for x in (node, *node.inputs))
        return size <= max(sizes)

    def _attends(self, node: Node) -> bool:
        """Does elementwise arithmetic on the result of an attention give this?"""
        if node.name not in self._attended:
            try:
                found = any(map(self._attends, node.inputs)) if _transparent(node) else not self.match(node).is_total
            except NoMatch:
                found = False
            self._attended[node.name] = found
        return self._attended[node.name]

    # ---- weights

    def _parts(self, pieces: list[_Piece], plain: bool) -> list[tuple[_Piece, Part]]:
        values = self.values
        done: list[tuple[_Piece, Part]] = []
        todo = list(pieces)
        while todo:
            piece = todo.pop(0)
            term = values.simplify(values.at(*piece.weights))
            try:
                weights = (plain_weights if plain else read_weights)(values, term, piece.var.name)
                self._split_scores(piece, weights)
                self._split_operands(piece, weights)
            except SplitError as split:
                todo[:0] = self._split(piece, split.at)
                continue
            weights.dens += piece.dens
            done.append((piece, Part(piece.var, piece.extent, weights)))
        return done

    def _split_scores(self, piece: _Piece, weights: Weights) -> None:
        terms = list(weights.scores)
        if weights.softmax is not None:
            terms.append(self._softmax_score(weights.softmax))
        for term in terms:
            for e in walk(self.values.simplify(term)):
                match e:
                    case Op("where", (cond, a, b)) if cond in self.values.cat_conditions:
                        x, end = self.values.cat_conditions[cond]
                        if uses(x, piece.var.name) and any(self._has_product(y) for y in (a, b)):
                            raise SplitError(boundary(self.values, x, end, piece.var.name))

    def _split_operands(self, piece: _Piece, weights: Weights) -> None:
        """Keys or values that a ``cat`` would copy are sources of their own."""
        terms = [*weights.scores, *([] if weights.softmax is None else [self._softmax_score(weights.softmax)])]
        products = [self.contractions.of(x) for term in terms for x in walk(term) if isinstance(x, Load)]
        operands = [side for c in products if c is not None for side in (c.left, c.right)]
        for element in [*operands, piece.values]:
            end = element and joint(self.values, element, piece.var.name)
            if end is not None and self._has_inside(piece, end):
                raise SplitError(end)

    def _has_inside(self, piece: _Piece, at: Expr) -> bool:
        """Are there keys on both sides in this call?"""
        return 0 < self.values.hint(at) < self.values.hint(piece.extent)

    def _has_product(self, e: Expr) -> bool:
        return any(isinstance(x, Load) and self.contractions.of(x) is not None for x in walk(e))

    def _softmax_score(self, e: Load) -> Expr:
        return unskewed(self.values, self.values.at(self.values.node_of(e)["input"], e.index))

    def _split(self, piece: _Piece, at: Expr) -> list[_Piece]:
        values = self.values
        if not self._has_inside(piece, at):
            raise NoMatch("a piece of the concatenated keys is empty in this call")
        low = values.fresh("j", at)
        high = values.fresh("j", values.simplify(piece.extent - at))
        values.keys |= {low.name, high.name}
        result = []
        for var, to in ((low, low), (high, high + at)):
            changed = {piece.var.name: to}
            weights, operand = (
                e and (e[0], tuple(values.simplify(substitute(x, changed)) for x in e[1]))
                for e in (piece.weights, piece.values)
            )
            gates = tuple(
                replace(g, index=tuple(values.simplify(substitute(x, changed)) for x in g.index)) for g in piece.gates
            )
            assert weights is not None
            result.append(_Piece(var, values.extents[var.name], weights, operand, piece.dens, gates))
        return result

    # ---- scores

    def _sources(
        self,
        parts: list[tuple[_Piece, Part]],
        names: list[str],
        feature: str | None,
        target: torch.dtype,
        shifts: bool,
        plain: bool,
    ) -> list[CandidateSource]:
        values = self.values
        covered = [p for _, p in parts] if plain else cover(values, self.contractions, [p for _, p in parts])
        by_var = {p.var.name: piece for piece, p in parts}
        read: list[tuple[Var, Expr, Score, _Piece | None]] = []
        for part in covered:
            w = part.weights
            terms, masks = list(w.scores), list(w.masks)
            if w.softmax is not None:
                terms.append(self._softmax_score(w.softmax))
            score = read_score(values, self.contractions, [values.simplify(t) for t in terms], masks)
            read.append((part.var, part.extent, score, by_var.get(part.var.name)))
        scores = [s.score for *_, s, _ in read]
        if shifts:
            scores = drop_common_shift(scores, [v.name for v, *_ in read])
        result = []
        for (var, extent, score, piece), expr in zip(read, scores, strict=True):
            operand = (
                peel(values, *piece.values, like=target, feature=feature)
                if piece is not None and piece.values
                else None
            )
            gates: tuple[Gate, ...] = ()
            if piece is not None and piece.gates and operand is not None:
                at = {x.name: n for n, x in enumerate(operand.index) if isinstance(x, Var)}
                gates = tuple(placed(g, at, operand.node) for g in piece.gates)
            query, key, expr = self._query_key(replace(score, score=expr), var, names, feature, target)
            mask = values.simplify(score.mask)
            result.append(
                CandidateSource(var, extent, query, key, operand, mask, values.simplify(expr), score.product, gates)
            )
        return [s for s in result if s.mask != FALSE or s.value is not None]

    def _query_key(
        self, score: Score, var: Var, names: list[str], feature: str | None, target: torch.dtype
    ) -> tuple[Peeled | None, Peeled | None, Expr]:
        c = score.product
        if c is None:
            return None, None, score.score
        key, query = c.left, c.right
        if var.name in _index_vars(query):
            key, query = query, key
        alone = self.values.extents[var.name] == Const(1)  # one key: it has no variable
        if var.name in _index_vars(query) or not (alone or var.name in _index_vars(key)):
            raise NoMatch("the score's inner product is not between a query and a key", key[0].location)
        batch = {n for n in names if n not in self.values.rows}
        q, k = (peel(self.values, *x, like=target, factor_vars=batch, feature=c.variable.name) for x in (query, key))
        factor = [f for f in (q.factor, k.factor, c.factor) if f != Const(1.0)]
        scaled: Expr = Var("dot", "float")
        for f in factor:
            scaled = scaled * f
        return q, k, fold_scale(substitute(score.score, {"dot": scaled}))

    def _feature(self, names: list[str], parts: list[tuple[_Piece, Part]]) -> str | None:
        """The variable of the value's features: the last one that the values use and the weights do not."""
        found = [
            n
            for n in names
            if all(p.values and n in _index_vars(p.values) and n not in _index_vars(p.weights) for p, _ in parts)
        ]
        return found[-1] if found else None


def _is_linear(score: Expr) -> bool:
    """Is this an inner product times numbers that are the same for all pairs?"""
    num, den = factors(score)
    rest = [x for x in (*num, *den) if x != DOT]
    return DOT in num and not any(free_vars(x) & {DOT.name, "i", "j"} for x in rest)


_PIECED = ("cat", "pad", "nan_to_num", *SCATTERS)


def _transparent(node: Node) -> bool:
    return node.op in ELEMENTWISE or node.op in VIEWS or node.op in _PIECED


def _root_term(values: Values, node: Node, index: tuple[Expr, ...]) -> Expr:
    return values.at(node, index) if node.op in ("add", "div", "mul") else load(node, index)


def _index_vars(element: Element) -> frozenset[str]:
    return frozenset().union(*(free_vars(x) for x in element[1]))


def _vars(values: Values, element: Element) -> frozenset[str]:
    peeled = peel(values, *element, like=element[0].dtype)
    return frozenset().union(*(free_vars(x) for x in peeled.index))
