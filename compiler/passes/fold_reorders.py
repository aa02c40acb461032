"""Fold rearrangements of tokens into the index maps of attention.

before::

    %r = attn.reorder %q index "x0, x1, (x2 + 3) % N, x3" inverse "x0, x1, (x2 - 3) % N, x3"
    %o, %lse = attn.attend over "b < B, h < H, i < N" query %r "b, h, i, d" ...

after::

    %o, %lse = attn.attend over "b < B, h < H, i < N" query %q "b, h, (i + 3) % N, d" ...

A reorder of the output becomes part of ``out_map`` in the same way, by its inverse.

A reorder that takes features apart, as ``(B, N, R * C) -> (B, N, R, C)``, is folded as far as it moves rows, and a
view that parts the features stays: a kernel writes rows whose features lie at one distance.

Legality: a reorder is a bijection of indices, so reading (writing) through it is reading (writing) at the mapped
index.  An output is folded only if the reorder is its one use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.expr import ZERO, Const, Expr, Lambda, Load, Op, Var, eq, free_vars, rewrite, substitute, walk
from ...ir.simplify import Facts
from .common import attends, facts_about
from .rewriting import replace


@dataclass(frozen=True)
class FoldReorders(ModulePass):
    """No options."""

    name = "fold-reorders"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for attend, facts in attends(op):
            changes = _inputs(attend, facts)
            if changes:
                new = attend.rebuilt(**changes)
                replace(attend, new)
                attend = new
            _outputs(attend, facts)
        _erase_unused(op)


def _through(value: SSAValue, index: Sequence[Expr]) -> tuple[SSAValue, tuple[Expr, ...]]:
    """Follow reorders from a tensor read at ``index`` to the tensor that it is read from."""
    while isinstance(value.owner, attn.ReorderOp):
        at = {f"x{n}": e for n, e in enumerate(index)}
        index = [substitute(e, at) for e in value.owner.index.data]
        value = value.owner.input
    return value, tuple(index)


def _inputs(op: attn.AttendOp, facts: Sequence[Expr]) -> dict[str, Any]:
    """The arguments of the op that change when it reads through the reorders before it."""
    if not any(isinstance(v.owner, attn.ReorderOp) for v in op.operands):
        return {}
    rows = facts_about([*op.domain, Dim("d", Const(op.width.data))], facts)
    query, query_map = _through(op.query, op.query_map.data)
    keys, values, sources = [], [], []
    for s, key, value in zip(op.source_list, op.keys, op.values, strict=True):
        widths = [Dim("d", Const(op.width.data)), Dim("e", Const(op.value_width.data))]
        known = facts_about([*op.domain, Dim(s.key, s.extent), *widths], facts, [s.mask])
        key, key_map = _through(key, s.key_map)
        value, value_map = _through(value, s.value_map)
        keys.append(key)
        values.append(value)
        mask, score = _loads(s.mask, op, known), _loads(s.score.body, op, known)
        sources.append(
            attn.Source(
                s.key, s.extent, _simple(key_map, known), _simple(value_map, known), mask, Lambda(s.score.params, score)
            )
        )
    return {
        "query": query,
        "keys": keys,
        "values": values,
        "captures": {name: _source_of(v) for name, v in op.captured.items()},
        "query_map": _simple(query_map, rows),
        "sources": sources,
    }


def _simple(index: Sequence[Expr], known: Facts) -> tuple[Expr, ...]:
    return tuple(known.simplify(e) for e in index)


def _source_of(value: SSAValue) -> SSAValue:
    while isinstance(value.owner, attn.ReorderOp):
        value = value.owner.input
    return value


def _loads(e: Expr, op: attn.AttendOp, known: Facts) -> Expr:
    """An expression that reads captured tensors before their reorder."""
    captured = op.captured

    def rule(x: Expr) -> Expr | None:
        if isinstance(x, Load) and isinstance(captured[x.tensor].owner, attn.ReorderOp):
            return Load(x.tensor, _simple(_through(captured[x.tensor], x.index)[1], known), x.kind)
        return None

    return rewrite(e, rule)


def _outputs(op: attn.AttendOp, facts: Sequence[Expr]) -> None:
    """Fold the reorders that are the only use of a result."""
    views: list[attn.ReorderOp] = []
    while True:
        widths = [Dim("e", Const(op.value_width.data))]
        known = facts_about([*op.domain, *widths], facts)
        for result, name, kind in ((op.out, "out_map", "out_type"), (op.lse, "lse_map", "lse_type")):
            uses = list(result.uses)
            if len(uses) == 1 and isinstance(uses[0].operation, attn.ReorderOp) and uses[0].operation not in views:
                reorder = uses[0].operation
                at = {f"x{n}": e for n, e in enumerate(getattr(op, name).data)}
                index = _simple([substitute(e, at) for e in reorder.inverse.data], known)
                index = tuple(_within(e, Const(op.value_width.data), facts, known) for e in index)
                parted = _features_apart(op, reorder, index) if name == "out_map" else None
                type = parted[1] if parted else reorder.output.type
                new = op.rebuilt(**{name: parted[0] if parted else index, kind: type})
                replace(op, new)
                op = new
                if parted:
                    view = attn.ReorderOp(op.out, *parted[2:], attn.tensor_type(reorder.output))
                    replace(reorder, view)
                    views.append(view)
                else:
                    reorder.output.replace_all_uses_with(getattr(op, name.removesuffix("_map")))
                    Rewriter.erase_op(reorder)
                break
        else:
            return


def _features_apart(
    op: attn.AttendOp, reorder: attn.ReorderOp, index: Sequence[Expr]
) -> tuple[tuple[Expr, ...], attn.TensorType, list[Expr], list[Expr]] | None:
    """An output whose features stay together, with its type, and the index and inverse of the view that parts them.

    ``index`` is where the kernel would write if all were folded.  None where its features have one distance, or where
    rows and features mix.
    """
    run = [n for n, x in enumerate(index) if "e" in free_vars(x)]
    if not any(_divides(index[n]) for n in run) or run != list(range(run[0], run[-1] + 1)):
        return None
    first, count = run[0], len(run)
    names = {d.name for d in op.domain}
    place = [n for n, x in enumerate(op.out_map.data) if x == Var("e")]
    parted = {f"x{n}" for n in run}
    merged = reorder.index.data[place[0]] if len(place) == 1 else None
    others = [x for n, x in enumerate(reorder.index.data) if n not in place]
    if merged is None or any(free_vars(index[n]) & names for n in run) or any(free_vars(x) & parted for x in others):
        return None
    shape = attn.tensor_type(reorder.output).shape
    if free_vars(merged) & {f"x{n}" for n in range(len(shape))} - parted:
        return None
    rows = (*index[:first], Var("e"), *index[first + count :])
    type = attn.TensorType.of(
        (*shape[:first], Const(op.value_width.data), *shape[first + count :]), attn.tensor_type(reorder.output).element
    )
    after = len(index) - first - count
    forward = [
        *(Var(f"x{n}") for n in range(first)), merged, *(Var(f"x{n}") for n in range(first + count, len(index)))
    ]  # fmt: skip
    split = [substitute(index[n], {"e": Var(f"x{first}")}) for n in run]
    backward = [*(Var(f"x{n}") for n in range(first)), *split, *(Var(f"x{first + 1 + n}") for n in range(after))]
    return rows, type, forward, backward


def _within(e: Expr, width: Expr, facts: Sequence[Expr], known: Facts) -> Expr:
    """``e // a // b`` is 0 where a fact says that ``a * b`` is the number of features."""

    def rule(x: Expr) -> Expr | None:
        match x:
            case Op("//", (Op("//", (Var("e"), a)), b)) if eq(a * b, width) in facts or eq(b * a, width) in facts:
                return ZERO
        return None

    return known.simplify(rewrite(e, rule)) if _divides(e) else e


def _divides(e: Expr) -> bool:
    """Is the feature divided in this index?"""
    return any(isinstance(x, Op) and x.name in ("//", "%") and "e" in free_vars(x) for x in walk(e))


def _erase_unused(module: ModuleOp) -> None:
    for op in reversed([o for o in module.walk() if isinstance(o, attn.ReorderOp)]):
        if not op.output.uses.get_length():
            Rewriter.erase_op(op)
