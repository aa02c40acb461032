"""Which values are attentions, which are reorderings of their results, and which PyTorch computes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...ir.expr import Expr, Var
from ...ir.powers import Powers, no_larger, powers
from ..graph import Graph, Input, Node
from . import views
from .elementwise import ELEMENTWISE
from .match import Matcher
from .notes import EagerNote, TokenSizes, bytes_of, elements
from .plan import AttendPlan
from .softmaxes import softmaxes_of
from .terms import NoMatch
from .values import MADE, Values


@dataclass(frozen=True)
class ReorderPlan:
    """``node[x0, x1, ...] = base[index]``, a bijection."""

    node: Node
    base: Node
    index: tuple[Expr, ...]
    inverse: tuple[Expr, ...]


@dataclass(frozen=True)
class CallPlan:
    node: Node


_READ_ELSEWHERE = "its result is read by operations that are not part of a fused attention"
_LOOKED_UP = "a product for each token and each row of a table, which the kernel looks up"
Plan = AttendPlan | ReorderPlan | CallPlan


@dataclass
class Partition:
    """Plans in the order of the graph, and notes on what stays eager."""

    plans: list[Plan] = field(default_factory=list)
    notes: list[EagerNote] = field(default_factory=list)


def partition(graph: Graph, values: Values, matcher: Matcher) -> Partition:
    """Decide for every needed node, from the results backwards."""
    order = {n.name: k for k, n in enumerate(graph.all_nodes())}
    needed = {n.name for n in graph.output_nodes()}
    chosen: list[Plan] = []
    calls: list[Node] = []
    failures: list[tuple[Node, NoMatch]] = []
    for node in reversed(graph.nodes):
        if node.name not in needed:
            continue
        plan: Plan
        try:
            plan = matcher.match(node)
            reads = plan.operands()
        except NoMatch as error:
            if error.loud:
                failures.append((node, error))
            reorder = _reorder(values, matcher, node)
            if reorder is not None:
                plan, reads = reorder, [reorder.base]
            else:
                plan, reads = CallPlan(node), list(node.inputs)
                calls.append(node)
        chosen.append(plan)
        while made := [n for n in reads if n.name not in order]:
            more: list[Plan] = [CallPlan(n) if n.op in MADE else matcher.match(n) for n in made]
            chosen += more
            calls += [n for n in made if n.op in MADE]
            reads = [n for n in reads if n.name in order] + [x for p in more for x in _reads(p)]
        needed |= {n.name for n in reads}
    plans = [p for p in chosen if isinstance(p, AttendPlan)]
    covered = _covered(plans)
    failures = [(n, e) for n, e in failures if not _combines(n, covered)]
    merged = {n.name for n in calls if _combines(n, covered) and _no_larger(values, n, graph, covered)}
    merged |= {n.name for n in calls if any(_in_grid(values, n, p) for p in plans)}
    notes = _notes(values, graph, matcher, list(reversed(calls)), failures, merged, plans)
    return Partition(_shared(_once(list(reversed(chosen)))), notes)


def _covered(plans: list[AttendPlan]) -> set[str]:
    """The nodes that attentions compute."""
    return {n.name for p in plans for n in (p.node, p.lse) if n is not None}


def _once(plans: list[Plan]) -> list[Plan]:
    """Without what raising added and what stands there already, for an attention before."""
    return list({(type(p), p.node.name): p for p in plans}.values())


def _combines(node: Node, attentions: set[str]) -> bool:
    """Is ``node`` arithmetic on the results of attentions that are fused one by one?"""
    if node.op not in ELEMENTWISE:
        return False
    todo, seen, found = [node], set(), False
    while todo:
        x = todo.pop()
        if x.name in attentions:
            found = True
        elif x.name not in seen:
            seen.add(x.name)
            if x.op in ("matmul", "einsum", "sum", "scaled_dot_product_attention", "softmax"):
                return False
            if x.op in ELEMENTWISE or x.op in views.VIEWS:
                todo += x.inputs
    return found


def _shared(plans: list[Plan]) -> list[Plan]:
    """One kernel where a function wants the result and the log-sum-exp of the same attention."""
    result = list(plans)
    for lse in [p for p in plans if isinstance(p, AttendPlan) and p.lse is not None]:
        at = result.index(lse)
        for n, p in enumerate(result):
            if isinstance(p, AttendPlan) and p.wants_out and p.lse is None and p.scores() == lse.scores():
                # the kernel runs where the later of the two stands, so nothing in between may read the earlier
                reads = {x.name for q in result[min(at, n) + 1 : max(at, n)] for x in _reads(q)}
                both = replace(p, lse=lse.lse, lse_map=lse.lse_map)
                first = lse.lse if at < n else p.node
                if first is not None and first.name not in reads:
                    result[max(at, n)] = both
                    del result[min(at, n)]
                    break
    return result


def _reads(plan: Plan) -> list[Node]:
    if isinstance(plan, AttendPlan):
        return plan.operands()
    return [plan.base] if isinstance(plan, ReorderPlan) else list(plan.node.inputs)


def _reorder(values: Values, matcher: Matcher, node: Node) -> ReorderPlan | None:
    """A chain of bijective views over an attention's result, as one reordering."""
    chain: list[Node] = []
    base = node
    while base.op in views.BIJECTIVE:
        chain.append(base)
        base = base["input"]
    if not chain or isinstance(base, Input):
        return None
    try:
        matcher.match(base)
    except NoMatch:
        return None
    index: tuple[Expr, ...] = tuple(values.fresh("x", size) for size in node.shape)
    forward = {x.name: Var(f"x{n}") for n, x in enumerate(index) if isinstance(x, Var)}
    for view in chain:
        step = views.step(values, view, index)
        assert step is not None
        index = step
    inner: tuple[Expr, ...] = tuple(values.fresh("x", size) for size in base.shape)
    backward = {x.name: Var(f"x{n}") for n, x in enumerate(inner) if isinstance(x, Var)}
    for view in reversed(chain):
        inner = views.back(values, view, inner)
    return ReorderPlan(node, base, _renamed(values, index, forward), _renamed(values, inner, backward))


def _renamed(values: Values, index: tuple[Expr, ...], names: dict[str, Var]) -> tuple[Expr, ...]:
    from ...ir.expr import substitute

    return tuple(substitute(values.simplify(x), names) for x in index)


def _no_larger(values: Values, node: Node, graph: Graph, attentions: set[str]) -> bool:
    """Has ``node`` no more elements than the result of an attention?"""
    size = values.hint(elements(values, node))
    return any(values.hint(elements(values, n)) >= size for n in graph.nodes if n.name in attentions)


def _in_grid(values: Values, node: Node, plan: AttendPlan) -> bool:
    """Has ``node`` no more of the attention's tokens than one of its operands: is it an image whose pixels attend?"""

    def of(x: Node) -> Powers:
        return powers(map(values.simplify, x.shape))

    operands = [plan.node, plan.query, *(x for s in plan.sources for x in (s.key, s.value))]
    return no_larger(of(node), [of(x) for x in operands if x is not None])


def _notes(
    values: Values,
    graph: Graph,
    matcher: Matcher,
    calls: list[Node],
    failures: list[tuple[Node, NoMatch]],
    merged: set[str],
    attentions: list[AttendPlan],
) -> list[EagerNote]:
    """A note for each eager op that allocates; one with the matcher's reason for each attention that failed.

    A softmax that stays eager is attention that was not fused, whatever its size is.
    """
    tables = {n.name for plan in attentions for n in plan.tables()}
    tokens = TokenSizes(values, graph)
    for plan in attentions:
        for source in plan.sources:
            tokens.add((plan.dims[-1][1], source.extent))
    for node, error in failures:
        if error.attention:
            tokens.add_operands(node)
    reasons = {node.name: error for node, error in failures}
    softmaxes = softmaxes_of(graph, calls, _covered(attentions))
    explain: dict[str, str] = {}  # everything that feeds a failed attention stays eager for its reason
    for node in reversed(graph.nodes):
        if node.name in reasons:
            explain.setdefault(node.name, reasons[node.name].reason)
        if node.name in explain:
            for x in node.inputs:
                if tokens.quadratic(x) or x.name in reasons or matcher.weighty(x):
                    explain.setdefault(x.name, explain[node.name])
    notes = []
    for node in calls:
        size = bytes_of(values, node)
        quadratic = node.name in softmaxes or (tokens.quadratic(node) and node.name not in merged)
        failed = node.name in reasons and (
            quadratic
            or reasons[node.name].attention
            or any(tokens.quadratic(x) or x.name in softmaxes for x in node.inputs)
        )
        if node.op in views.VIEWS and not quadratic:
            continue
        if failed or quadratic:
            location = reasons[node.name].location or node.location if failed else node.location
            plain = _READ_ELSEWHERE if tokens.quadratic(node) else ""
            reason = explain.get(node.name) or plain or softmaxes.get(node.name) or _READ_ELSEWHERE
            notes.append(EagerNote(node.op, location, reason, size, True))
        else:
            reason = _LOOKED_UP if node.name in tables else "not attention"
            notes.append(EagerNote(node.op, node.location, reason, size, False))
    return notes
