"""Lower ``attn.attend`` to a ``tile.kernel`` that walks the keys once.

before::

    %o, %lse = attn.attend over "b < B, h < H, i < N" query %q ... source "j < M" ... tiles "64 x 128"

after::

    %o, %lse = tile.launch @f_kernel(%q, %k, %v)
    tile.kernel @f_kernel(...) grid "b < B, h < H, t < (N + 63) // 64" rows "i, t * 64, 64, N" {
      for every source: tile.for j in ["0, M"] step 128 carry (m, l, acc) { ... }
    }

The recurrence is the online softmax of Milakov and Gimelshein (2018, section 3) in the tiled form of
FlashAttention (Dao et al. 2022, algorithm 1), in base 2: with ``c`` the constant factor of the score times
log2(e), probabilities are ``exp2(s * c - m)``, one fused multiply-add each.  ``m`` is the running maximum of
``s * c``, rounded once per row, so its rounding error cancels between the output and its normaliser.  ``l``
is the running sum and ``acc`` the unnormalised output.  A row that has seen no key yet has ``m = -inf``; the
shift is then 0, so no ``inf - inf`` arises.  Huge scores (fills such as -1e9) are subtracted first and scaled
afterwards.

With normaliser ``none`` the scores are the weights, and ``acc`` is all that is carried.

Legality: none needed; every ``attn.attend`` with ``tiles`` has this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from ...ir import attn, tile
from ...ir.attributes import Dim
from ...ir.dtypes import accumulator
from ...ir.expr import Lambda, Var, free_vars
from . import running_softmax
from .inner_products import load_lefts, named, tiles_of
from .kernel_builder import (
    LN_2,
    ZERO,
    KernelBuilder,
    batch_grid,
    by_locality,
    element_of,
    fresh,
    in_own_units,
    inherit,
    live_weights,
    memory_of,
    names_taken,
    row_tiles,
    split_factor,
)


@dataclass(frozen=True)
class OnlineSoftmax(ModulePass):
    """Options: ``narrow`` rounds probabilities to the values' type before the second product, as tensor cores need."""

    name = "online-softmax"
    narrow: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        func = attn.func_of(op)
        attends = [a for a in func.body.block.ops if isinstance(a, attn.AttendOp)]
        for n, attend in enumerate(attends):
            if attend.tiles is None:
                continue
            name = f"{func.sym_name.data}_kernel" + (str(n) if len(attends) > 1 else "")
            kernel = _Lowering(attend, name, self.narrow).kernel
            op.body.block.add_op(kernel)
            launch = tile.LaunchOp(name, attend.operands, [r.type for r in attend.results])
            inherit(attend, launch)
            if "part" in attend.attributes:
                launch.attributes["part"] = attend.attributes["part"]
            for old, new in zip(attend.results, launch.outputs, strict=True):
                new.name_hint = old.name_hint
            Rewriter.replace_op(attend, launch)


class _Lowering:
    """Builds the kernel of one ``attn.attend``."""

    def __init__(self, op: attn.AttendOp, name: str, narrow: bool):
        assert op.tiles is not None
        self.op = op
        self.narrow = narrow
        self.own_units = in_own_units(op)
        queries, step = op.tiles.data
        taken = names_taken(op)
        *batch, row = op.domain
        self.row = row.name
        count, rows = row_tiles(fresh("t", taken), row, batch, queries)

        names = [fresh("q", taken)]
        names += [fresh("k", taken) for _ in op.keys] + [fresh("v", taken) for _ in op.values]
        names += [*op.captured, *(fresh(n, taken) for n in ("o", "lse", "w")[: len(op.results)])]
        types = [memory_of(v) for v in (*op.operands, *op.results)]
        grid = by_locality(batch_grid(batch), count, row.name, op.out_map.data)
        self.kernel = tile.KernelOp(name, names, types, len(op.results), grid, rows)
        inherit(op, self.kernel)
        sizes = {s.key: step for s in op.source_list} | {"d": op.width.data, "e": op.value_width.data}
        compute = accumulator(attn.tensor_type(op.query).element)
        self.builder = KernelBuilder(self.kernel, sizes | {row.name: queries}, compute)
        count_keys = len(op.keys)
        args = list(self.kernel.args)
        self.query, (self.out, self.lse, *self.weights) = args[0], args[-len(op.results) :]
        self.keys, self.values = args[1 : 1 + count_keys], args[1 + count_keys : 1 + 2 * count_keys]
        self._body()

    def _body(self) -> None:
        i, op_, b = self.row, self.op, self.builder
        compares = any("dot" in free_vars(s.score.body) for s in op_.source_list)
        q = b.load("query", self.query, op_.query_map.data, i, "d") if compares else None
        self.captured = dict(zip(self.kernel.names, self.kernel.args, strict=True))
        self.lefts = load_lefts(b, self.captured, op_.source_list, i)
        if not op_.normalised:
            self._sums(q)
            return
        state = [*running_softmax.start(b, i), b.full("acc", ZERO, i, "e")]
        for n, source in enumerate(op_.source_list):
            state = b.loop(
                Dim(source.key, source.extent),
                source.mask,
                state,
                lambda carried, n=n: self._step(n, q, carried),
            )
        m, l, acc = state
        inverse = running_softmax.inverse(b, l, i)
        out = b.map("out", "lambda acc, inv: acc * inv", [acc, inverse], i, "e")
        b.store(out, self.out, op_.out_map.data)
        natural = f"m + log2(l) * {LN_2!r}" if self.own_units else f"(m + log2(l)) * {LN_2!r}"
        lse = b.map("lse", f"lambda m, l: {natural}", [m, l], i)
        b.store(lse, self.lse, op_.lse_map.data)
        for weights in self.weights:
            running_softmax.store_weights(b, m, inverse, weights, op_.weights_maps, i)

    def _sums(self, q: SSAValue | None) -> None:
        """Without a normaliser the scores are the weights: nothing but the output is carried."""
        i, op_, b = self.row, self.op, self.builder
        state = [b.full("acc", ZERO, i, "e")]
        for n, source in enumerate(op_.source_list):

            def step(carried: Sequence[SSAValue], n: int = n, source: attn.Source = source) -> list[SSAValue]:
                p = live_weights(b, b.mask(self._score(n, q, source.score), source.mask, n), source.mask)
                p = b.round(p, element_of(self.values[n])) if self.narrow else p
                v = b.load("value", self.values[n], source.value_map, source.key, "e")
                return [b.dot("acc", p, v, i, "e", acc=carried[0])]

            state = b.loop(Dim(source.key, source.extent), source.mask, state, step)
        b.store(state[0], self.out, op_.out_map.data)
        b.store(b.full("lse", ZERO, i), self.lse, op_.lse_map.data)

    def _score(self, n: int, q: SSAValue | None, score: Lambda) -> SSAValue:
        """The score of one tile of keys of source ``n``."""
        source, i, j, b = self.op.source_list[n], self.row, self.op.source_list[n].key, self.builder
        score, bands = named(score, tiles_of(b, self.captured, source, i, self.lefts, i, j))
        if q is None or "dot" not in free_vars(score.body):
            return b.map("score", Lambda(score.params[1:], score.body), bands, i, j)
        s = b.dot("dot", q, b.load("key", self.keys[n], source.key_map, j, "d"), i, j)
        return s if score.body == Var("dot", "float") else b.map("score", score, [s, *bands], i, j)

    def _step(self, n: int, q: SSAValue | None, state: Sequence[SSAValue]) -> list[SSAValue]:
        """Fold one tile of keys of source ``n`` into the running maximum, sum and output."""
        source, value = self.op.source_list[n], self.values[n]
        i, j, b = self.row, source.key, self.builder
        m, l, acc = state
        score, factor = split_factor(source.score)
        s = b.mask(self._score(n, q, score), source.mask, n)
        m_new, l_new, alpha, p = running_softmax.fold(b, (m, l), s, factor, self.own_units, i, j)
        v = b.load("value", value, source.value_map, j, "e")
        scaled = b.map("scaled", "lambda acc, alpha: acc * alpha", [acc, alpha], i, "e")
        if self.narrow:
            p = b.round(p, element_of(value))
        return [m_new, l_new, b.dot("acc", p, v, i, "e", acc=scaled)]
