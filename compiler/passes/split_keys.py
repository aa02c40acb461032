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

Legality: keys of one source may be taken in any order, and in parts.  A row of nothing but huge scores (fills such as
-1e9) is not cut up: the log-sum-exp of a part would have no digits for how many keys it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from ...ir import attn
from ...ir.attributes import Dim
from ...ir.dtypes import accumulator
from ...ir.expr import Const, Expr, Lambda, Load, Var, ceildiv, minimum, op
from ..analysis.bounds import max_over
from ..analysis.cost import device
from .common import attends, facts_about, moved
from .few_rows import count_of, tile_rows
from .kernel_builder import fresh, names_taken, steep
from .rewriting import replace

PART = 2048  # keys of a part: enough that its output is little beside them


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
        if on.is_gpu or not sizes:
            return
        for attend, facts in attends(module):
            few = attend.tiles is not None and attend.tiles.data[0] <= on.lanes
            if few and len(attend.source_list) == 1 and not steep(attend.source_list):
                found = count_of(attend.source_list[0].extent, attend.domain[:-1], sizes)
                if found is not None and (not isinstance(found[0], Const) or found[1] > 2 * self.part):
                    split(attend, self.part, found[0], facts)


def split(attend: attn.AttendOp, part: int, most: Expr, facts: tuple[Expr, ...]) -> None:
    """Put the two attentions in the place of one whose rows have at most ``most`` keys."""
    *batch, row = attend.domain
    (source,) = attend.source_list
    taken = names_taken(attend)
    s = Dim(fresh("s", taken), ceildiv(most, part))
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
    changes = {"dims": domain, "sources": sources, "out_map": (*at, Var("e")), "lse_map": at}
    parts = attend.rebuilt(**changes, **shape)
    parts.attributes = dict(attend.attributes) | {"part": UnitAttr()}
    parts.out.name_hint, parts.lse.name_hint = "part", "part_lse"
    Rewriter.insert_op(parts, InsertPoint.before(attend))

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
        query=parts.out,
        keys=[parts.out],
        values=[parts.out],
        captures={weight: parts.lse},
        dims=(*batch, row, Dim(one, Const(1))),
        query_map=(*head, Var("d")),
        sources=(merge,),
        width=width,
        tiles=(tile_rows(1), 64),
    )
    replace(attend, whole)
