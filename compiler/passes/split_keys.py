"""Few rows of many keys become parts that run at the same time, and a small attention over the parts.

before::

    %o, %lse = attn.attend over "b < B, i < N"
      source "j < M" key %k "b, j, d" value %v "b, j, e" ... tiles "8 x 64"

after::

    %part, %part_lse = attn.attend over "b < B, s < (M + 2047) // 2048, i < N" ...
      source "j < min(2048, M - s * 2048)" key %k "b, s * 2048 + j, d" ... out "b, s, i, e"
    %o, %lse = attn.attend over "b < B, i < N, u < 1" query %part "b, 0, i, d"
      source "s < (M + 2047) // 2048" key %part "b, s, i, d" value %part "b, s, i, e"
      score "lambda dot: part_lse[b, s, i]" ...

A part's output is normalised, so the whole is their sum weighted by ``exp(part_lse)``: a softmax over parts (Dao et
al. 2023, Flash-Decoding).  Nothing depends on how many threads there are.

On a GPU parts are as many as its processors want tasks, whatever the number of keys, so that all of them read their
share of the cache at the same time; ``S`` and the length of a part are expressions of sizes, and one kernel serves any
context.  Keys that no row sees, as before a sliding window, are left out first.

Legality: keys of one source may be taken in any order, and in parts.  A row of nothing but huge scores (fills such as
-1e9) is not cut up: the log-sum-exp of a part would have no digits for how many keys it holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.dtypes import accumulator
from ...ir.expr import (
    Const,
    Expr,
    Lambda,
    Load,
    Var,
    ceildiv,
    evaluate,
    free_vars,
    maximum,
    minimum,
    op,
    substitute,
)
from ..analysis.bounds import max_over
from ..analysis.cost import Device, device
from ..analysis.index_sets import key_ranges
from .common import change_attends, facts_about, moved
from .few_rows import count_of, tile_rows
from .kernel_builder import fresh, in_own_units, names_taken
from .rewriting import replace

PART = 2048  # keys of a part: enough that its output is little beside them
TASKS = 2  # for each processor of a GPU: one waits for memory while the other computes
STEPS = 2  # of a GPU's shortest part


@dataclass(frozen=True)
class SplitKeys(ModulePass):
    """Options: ``target`` is the device; ``names`` and ``values`` are the sizes of the call at hand; ``part`` is how
    many keys a part has."""

    name = "split-keys"
    target: str = "cpu-avx512"
    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    part: int = PART

    def apply(self, ctx: Context, module: ModuleOp) -> None:
        sizes = dict(zip(self.names, self.values, strict=True))
        on = device(self.target)
        if not sizes:
            return

        def change(attend: attn.AttendOp, facts: tuple[Expr, ...]) -> list[Expr]:
            few = attend.tiles is not None and "patch" not in attend.attributes
            if few and attend.normalised and len(attend.source_list) == 1 and not in_own_units(attend):
                if on.is_gpu:
                    return _share_out(attend, facts, sizes, on)
                if attend.tiles and attend.tiles.data[0] <= on.lanes:
                    self._cut(attend, facts, sizes)
            return []

        change_attends(module, change)

    def _cut(self, attend: attn.AttendOp, facts: tuple[Expr, ...], sizes: Mapping[str, int]) -> None:
        """Parts of a length that is known."""
        source = attend.source_list[0]
        found = count_of(source.extent, attend.domain[:-1], sizes)
        if found is not None and (not isinstance(found[0], Const) or found[1] > 2 * self.part):
            split(attend, source, ceildiv(found[0], self.part), Const(self.part), facts)


def _share_out(attend: attn.AttendOp, facts: tuple[Expr, ...], sizes: Mapping[str, int], on: Device) -> list[Expr]:
    """As many parts as tasks are missing to keep all processors busy; the guards that this relies on."""
    assert attend.tiles is not None
    *batch, row = attend.domain
    rows, step = attend.tiles.data
    source = _seen(attend, facts)
    most = count_of(source.extent, batch, sizes)
    one = facts_about(attend.domain, facts).always(op("<=", row.extent, rows))
    counts = [d.extent for d in batch] + ([] if one else [ceildiv(row.extent, rows)])
    lengths = [count_of(e, batch[:n], sizes) for n, e in enumerate(counts)]
    if most is None or None in lengths:
        return []
    if isinstance(most[0], Const) and most[1] <= STEPS * step:
        return []
    wanted = TASKS * on.processors
    tasks = math.prod((found[0] for found in lengths if found), start=Const(1))
    enough = op(">", tasks * 2, Const(wanted))
    if evaluate(enough, sizes):
        return [enough] if free_vars(enough) else []
    parts = maximum(minimum(ceildiv(most[0], STEPS * step), Const(wanted) // maximum(tasks, 1)), 1)
    split(attend, source, parts, ceildiv(ceildiv(most[0], parts), step) * step, facts)
    return [op("<=", tasks * 2, Const(wanted))] if free_vars(tasks) else []


def _seen(attend: attn.AttendOp, facts: tuple[Expr, ...]) -> attn.Source:
    """The source from the first key that a row of the only tile sees."""
    assert attend.tiles is not None
    (source,), domain = attend.source_list, attend.domain
    known = facts_about(domain, facts, [source.extent])
    rows = attend.tiles.data[0]
    if source.mask == Const(True) or not known.always(op("<=", domain[-1].extent, rows)):
        return source
    ranges = key_ranges(domain, rows, source, facts).all
    if not ranges:
        return source
    lo, hi = (
        known.simplify(substitute(e, {"t": Const(0)}))
        for e in (minimum(*(r.lo for r in ranges)), maximum(*(r.hi for r in ranges)))
    )
    used = {d.name for d in domain} | {source.key}
    if lo == Const(0) or free_vars(lo) & used or free_vars(hi) & used:
        return source
    return moved(source, domain, maximum(hi - lo, 0), {source.key: lo + Var(source.key)}, facts)


def split(attend: attn.AttendOp, source: attn.Source, parts: Expr, part: Expr, facts: tuple[Expr, ...]) -> None:
    """Put two attentions in the place of one, whose keys are those of ``source``: in ``parts`` of length ``part``."""
    *batch, row = attend.domain
    taken = names_taken(attend)
    s = Dim(fresh("s", taken), parts)
    first = Var(s.name) * part
    domain = (*batch, s, row)
    extent = op("max", minimum(part, source.extent - first), Const(0))
    extent = facts_about(domain, facts, [source.extent]).simplify(extent)
    sources = (moved(source, domain, extent, {source.key: first + Var(source.key)}, facts),)
    width = attend.value_width.data
    wide = accumulator(attn.tensor_type(attend.query).element)
    lengths = [max_over(d.extent, domain[:n]) for n, d in enumerate(domain)]
    at = tuple(Var(d.name) for d in domain)
    shape = {"out_type": attn.TensorType.of([*lengths, Const(width)], wide),
             "lse_type": attn.TensorType.of(lengths, wide)}  # fmt: skip
    changes = {"units": "", "dims": domain, "sources": sources, "out_map": (*at, Var("e")), "lse_map": at}
    pieces = attend.rebuilt(**changes, **shape)
    pieces.attributes = dict(attend.attributes) | {"part": UnitAttr()}
    pieces.out.name_hint, pieces.lse.name_hint = "part", "part_lse"
    Rewriter.insert_op(pieces, InsertPoint.before(attend))

    one, weight = fresh("u", taken), fresh("part_lse", taken)
    head = tuple(Const(0) if d is s else Var(d.name) for d in domain)
    merge = attn.Source(
        s.name,
        s.extent,
        (*at, Var("d")),
        (*at, Var("e")),
        Const(True),
        Lambda(("dot",), Load(weight, at)),
    )
    whole = attend.rebuilt(
        query=pieces.out,
        keys=[pieces.out],
        values=[pieces.out],
        captures={weight: pieces.lse},
        dims=(*batch, row, Dim(one, Const(1))),
        query_map=(*head, Var("d")),
        sources=(merge,),
        width=width,
        tiles=(tile_rows(1), 64),
    )
    replace(attend, whole)
