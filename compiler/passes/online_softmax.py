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
shift is then 0, so no ``inf - inf`` arises.

Legality: none needed; every ``attn.attend`` with ``tiles`` has this form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xdsl.builder import Builder
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from ...ir import attn, tile
from ...ir.attributes import Dim
from ...ir.dtypes import accumulator
from ...ir.expr import TRUE, Const, Lambda, Op, Var, ceildiv, free_vars, lt, op, parse_lambda
from ...ir.tile import Axis, MemType, Range, TileType
from ..analysis.bounds import max_over

LOG2_E = math.log2(math.e)
LN_2 = math.log(2)


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
            launch = tile.LaunchOp(name, attend.operands, [attend.out.type, attend.lse.type])
            _inherit(attend, launch)
            for old, new in zip(attend.results, launch.outputs, strict=True):
                new.name_hint = old.name_hint
            Rewriter.replace_op(attend, launch)


class _Lowering:
    """Builds the kernel of one ``attn.attend``."""

    def __init__(self, op: attn.AttendOp, name: str, narrow: bool):
        assert op.tiles is not None
        self.op = op
        self.narrow = narrow
        self.queries, self.step = op.tiles.data
        self.compute = accumulator(attn.tensor_type(op.query).element)
        taken = {d.name for d in op.domain} | {s.key for s in op.source_list} | {"d", "e"} | set(op.captured)
        taken |= set().union(*(free_vars(s) for v in op.operands for s in attn.tensor_type(v).shape))
        self.row = op.domain[-1]
        self.task = _fresh("t", taken)

        names = [_fresh("q", taken)]
        names += [_fresh("k", taken) for _ in op.keys] + [_fresh("v", taken) for _ in op.values]
        names += [*op.captured, _fresh("o", taken), _fresh("lse", taken)]
        types = [_memory(v) for v in (*op.operands, *op.results)]
        self.kernel = tile.KernelOp(name, names, types, 2, self._grid(), self._rows())
        _inherit(op, self.kernel)
        self.builder = Builder(InsertPoint.at_end(self.kernel.body.block))
        count = len(op.keys)
        args = list(self.kernel.args)
        self.query, self.keys, self.values = args[0], args[1 : 1 + count], args[1 + count : 1 + 2 * count]
        self.out, self.lse = args[-2:]
        self._body()

    def _grid(self) -> list[Dim]:
        batch = [Dim(d.name, max_over(d.extent, self.op.domain[:n])) for n, d in enumerate(self.op.domain[:-1])]
        rows = max_over(self.row.extent, self.op.domain[:-1])
        return [*batch, Dim(self.task, ceildiv(rows, self.queries))]

    def _rows(self) -> Axis:
        bound = self.row.extent
        for n, d in enumerate(self.op.domain[:-1]):
            if free_vars(d.extent) & {outer.name for outer in self.op.domain[:n]}:  # the grid is wider
                bound = op("where", lt(Var(d.name), d.extent), bound, 0)
        return Axis(self.row.name, Var(self.task) * self.queries, self.queries, bound)

    def _tile(self, *axes: str, element: Attribute | None = None) -> TileType:
        sizes = {self.row.name: self.queries, "d": self.op.width.data, "e": self.op.value_width.data}
        return TileType.of({a: sizes.get(a, self.step) for a in axes}, element or self.compute)

    def _add(self, hint: str, operation: Operation) -> SSAValue:
        """Append an op at the insertion point and name its result."""
        self.builder.insert(operation)
        operation.results[0].name_hint = hint
        return operation.results[0]

    def _map(self, hint: str, function: str | Lambda, inputs: Iterable[SSAValue], type: TileType) -> SSAValue:
        function = parse_lambda(function) if isinstance(function, str) else function
        return self._add(hint, tile.MapOp(function, list(inputs), type))

    def _body(self) -> None:
        i, op_ = self.row.name, self.op
        element = _element(self.query)
        q = self._add("query", tile.LoadOp(self.query, op_.query_map.data, self._tile(i, "d", element=element)))
        state = [
            self._add("m", tile.FullOp(Const(-math.inf), self._tile(i))),
            self._add("l", tile.FullOp(Const(0.0), self._tile(i))),
            self._add("acc", tile.FullOp(Const(0.0), self._tile(i, "e"))),
        ]
        for source, key, value in zip(op_.source_list, self.keys, self.values, strict=True):
            state = self._loop(source, q, key, value, state)
        m, l, acc = state
        inverse = self._map("inv", "lambda l: where(l > 0.0, 1.0 / l, 0.0)", [l], self._tile(i))
        out = self._map("out", "lambda acc, inv: acc * inv", [acc, inverse], self._tile(i, "e"))
        self.builder.insert(tile.StoreOp(out, self.out, op_.out_map.data))
        lse = self._map("lse", f"lambda m, l: (m + log2(l)) * {LN_2!r}", [m, l], self._tile(i))
        self.builder.insert(tile.StoreOp(lse, self.lse, op_.lse_map.data))

    def _loop(
        self, source: attn.Source, q: SSAValue, key: SSAValue, value: SSAValue, state: list[SSAValue]
    ) -> list[SSAValue]:
        """Fold one source's keys into the running maximum, sum and output."""
        i, j = self.row.name, source.key
        block = Block(arg_types=[v.type for v in state])
        for arg, hint in zip(block.args, ("m", "l", "acc"), strict=True):
            arg.name_hint = hint
        outer, self.builder = self.builder, Builder(InsertPoint.at_end(block))
        m, l, acc = block.args

        k = self._add("key", tile.LoadOp(key, source.key_map, self._tile(j, "d", element=_element(key))))
        s = self._add("dot", tile.DotOp(q, k, self._tile(i, j)))
        score, factor = _split_factor(source.score)
        if score.body != Var("dot", "float"):
            s = self._map("score", score, [s], self._tile(i, j))
        c = repr(factor * LOG2_E)
        if source.mask != TRUE:
            s = self._add("masked", tile.MaskOp(s, source.mask))
        peak = self._add("peak", tile.ReduceOp("max", s, self._tile(i)))
        m_new = self._map("m", f"lambda m, peak: max(m, peak * {c})", [m, peak], self._tile(i))
        shift = self._map("shift", "lambda m: where(m == -inf, 0.0, m)", [m_new], self._tile(i))
        alpha = self._map("alpha", "lambda m, shift: exp2(m - shift)", [m, shift], self._tile(i))
        p = self._map("p", f"lambda s, shift: exp2(s * {c} - shift)", [s, shift], self._tile(i, j))
        total = self._add("total", tile.ReduceOp("sum", p, self._tile(i)))
        l_new = self._map("l", "lambda l, alpha, total: l * alpha + total", [l, alpha, total], self._tile(i))
        v = self._add("value", tile.LoadOp(value, source.value_map, self._tile(j, "e", element=_element(value))))
        scaled = self._map("scaled", "lambda acc, alpha: acc * alpha", [acc, alpha], self._tile(i, "e"))
        if self.narrow and _element(value) != self.compute:
            p = self._map("p", "lambda p: p", [p], self._tile(i, j, element=_element(value)))
        acc_new = self._add("acc", tile.DotOp(p, v, self._tile(i, "e"), scaled))
        self.builder.insert(tile.YieldOp([m_new, l_new, acc_new]))

        self.builder = outer
        kind = "full" if source.mask == TRUE else "partial"
        loop = tile.ForOp(j, kind, self.step, [Range(Const(0), source.extent)], state, Region(block))
        _inherit(self.op, loop)
        self.builder.insert(loop)
        for result, hint in zip(loop.results_, ("m", "l", "acc"), strict=True):
            result.name_hint = hint
        return list(loop.results_)


def _split_factor(score: Lambda) -> tuple[Lambda, float]:
    """``score`` as another score times a positive constant."""
    match score.body:
        case Op("*", (x, Const(c))) | Op("*", (Const(c), x)) if c > 0:
            return Lambda(score.params, x), float(c)
        case Op("/", (x, Const(c))) if c > 0:
            return Lambda(score.params, x), 1.0 / c
    return score, 1.0


def _fresh(name: str, taken: set[str]) -> str:
    """``name``, numbered if need be, so that it differs from all names taken; takes it."""
    candidate, n = name, 1
    while candidate in taken:
        candidate, n = f"{name}{n}", n + 1
    taken.add(candidate)
    return candidate


def _memory(value: SSAValue) -> MemType:
    type = attn.tensor_type(value)
    return MemType.of(len(type.shape), type.element)


def _element(memory: SSAValue) -> Attribute:
    assert isinstance(memory.type, MemType)
    return memory.type.element


def _inherit(source: Operation, to: Operation) -> None:
    """Copy the user's line."""
    attributes: Mapping[str, Attribute] = source.attributes
    if "at" in attributes:
        to.attributes["at"] = attributes["at"]
