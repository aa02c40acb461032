"""What several passes over ``attn.attend`` share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from xdsl.dialects.builtin import ModuleOp

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.dtypes import name_of
from ...ir.expr import FALSE, TRUE, Const, Expr, Lambda, Op, all_of, any_of, conjuncts, free_vars, op, substitute, walk
from ...ir.simplify import Facts, Range
from ..analysis.cost import Work
from ..analysis.index_sets import implies, is_empty

MOST_MODULUS = 1 << 14


def attends(module: ModuleOp) -> Iterator[tuple[attn.AttendOp, tuple[Expr, ...]]]:
    """Every attention with the facts of its function."""
    for func in _functions(module):
        yield from _attends_of(func)


def change_attends(module: ModuleOp, change: Callable[[attn.AttendOp, tuple[Expr, ...]], Iterable[Expr]]) -> None:
    """``change`` each attention, given the facts of its function, which requires the guards that come back."""
    for func in _functions(module):
        func.require([guard for found, facts in _attends_of(func) for guard in change(found, facts)])


def _functions(module: ModuleOp) -> list[attn.FuncOp]:
    return [f for f in module.walk() if isinstance(f, attn.FuncOp)]


def _attends_of(func: attn.FuncOp) -> list[tuple[attn.AttendOp, tuple[Expr, ...]]]:
    facts = func.facts
    return [(o, facts) for o in func.body.block.ops if isinstance(o, attn.AttendOp)]


def work_of(op: attn.Attention, facts: tuple[Expr, ...] = ()) -> Work:
    """The attention as the cost model sees it."""
    element = name_of(attn.tensor_type(op.query).element)
    return Work(op.domain, tuple(op.source_list), op.width.data, op.value_width.data, element, facts)


def ranges_of(dims: Iterable[Dim], sizes: Iterable[str] = ()) -> dict[str, Range]:
    """Inclusive ranges of dimensions, and of sizes."""
    ranges: dict[str, Range] = {n: (Const(0), None) for n in sorted(sizes)}
    for d in dims:
        ranges[d.name] = (Const(0), d.extent - 1)
    return ranges


def facts_about(dims: Sequence[Dim], facts: Iterable[Expr], exprs: Iterable[Expr] = ()) -> Facts:
    """What :mod:`ir.simplify` may use at a point of ``dims``: sizes are not negative."""
    names = set().union(*(free_vars(d.extent) for d in dims), *(free_vars(e) for e in exprs))
    return Facts(ranges_of(dims, names - {d.name for d in dims}), facts)


def tidy(condition: Expr, dims: Sequence[Dim], facts: Sequence[Expr]) -> Expr:
    """An equal condition in the domain, shorter: what the rest implies is dropped, what cannot be is false."""
    condition = facts_about(dims, facts, [condition]).simplify(condition)
    return _tidy(condition, TRUE, dims, tuple(facts))


def _tidy(e: Expr, given: Expr, dims: Sequence[Dim], facts: tuple[Expr, ...]) -> Expr:
    if isinstance(e, Const):
        return e
    if implies(given, e, dims, facts):
        return TRUE
    if is_empty(op("and", given, e), dims, facts):
        return FALSE
    if isinstance(e, Op) and e.name == "and":
        terms = conjuncts(e)
        for n in reversed(range(len(terms))):  # the last of two equivalent terms goes
            rest = all_of(t for k, t in enumerate(terms) if k != n)
            terms[n] = _tidy(terms[n], op("and", given, rest), dims, facts)
        return all_of(terms)
    if isinstance(e, Op) and e.name == "or":
        arms = [_tidy(a, given, dims, facts) for a in e.args]
        for n, arm in enumerate(arms):
            rest = any_of(a for k, a in enumerate(arms) if k != n)
            if rest != FALSE and implies(op("and", given, arm), rest, dims, facts):
                arms[n] = FALSE
        return any_of(arms)
    return e


def moved(
    s: attn.Source, domain: Sequence[Dim], extent: Expr, changes: Mapping[str, Expr], facts: Sequence[Expr]
) -> attn.Source:
    """A source with the row and the key of its attention written in other dimensions: those of ``changes``."""
    pairs = (*domain, Dim(s.key, extent))
    inside = facts_about(pairs, facts)
    key, value = (tuple(inside.simplify(substitute(e, changes)) for e in m) for m in (s.key_map, s.value_map))
    score = Lambda(s.score.params, inside.simplify(substitute(s.score.body, changes)))
    return attn.Source(s.key, extent, key, value, tidy(substitute(s.mask, changes), pairs, facts), score)


def moved_maps(
    op: attn.Attention, domain: Sequence[Dim], changes: Mapping[str, Expr], facts: Sequence[Expr]
) -> dict[str, tuple[Expr, ...]]:
    """Where an attention reads queries and writes results, in other dimensions, by the names of its arguments."""
    inside = facts_about(domain, facts)
    return {
        name: tuple(inside.simplify(substitute(e, changes)) for e in getattr(op, name).data)
        for name in ("query_map", "out_map", "lse_map")
    }


def moduli(mask: Expr) -> list[int]:
    """Numbers that a periodic mask may repeat after, largest first: from its constants, in any spelling."""
    found: set[int] = set()
    for e in walk(mask):
        match e:
            case Op("%" | "//", (_, Const(int() as c))):
                found.add(c)
            case Op("&", (_, Const(int() as c))):
                found.add(c + 1 if c >= 0 else -c)
            case Op(">>" | "<<", (_, Const(int() as c))) if 0 <= c < 14:
                found.add(1 << c)
            case Op("*", args):
                found |= {abs(a.value) for a in args if isinstance(a, Const) and isinstance(a.value, int)}
    pairs = list(itertools.combinations(sorted(found), 2))
    found |= {math.gcd(a, b) for a, b in pairs} | {math.lcm(a, b) for a, b in pairs}
    return sorted((c for c in found if 2 <= c <= MOST_MODULUS), reverse=True)


def fresh(name: str, op_: attn.Attention) -> str:
    """A name like ``name`` that the op does not use yet."""
    taken = {d.name for d in op_.domain} | {s.key for s in op_.source_list} | set(op_.captured) | {"d", "e", "dot"}
    for value in (*op_.operands, *op_.results):
        taken |= set().union(*(free_vars(s) for s in attn.tensor_type(value).shape))
    return next(n for n in itertools.chain([name], (f"{name}{k}" for k in itertools.count(1))) if n not in taken)
