"""Building tile kernels: what all lowerings to dialect ``tile`` share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from xdsl.builder import Builder
from xdsl.dialects.builtin import DictionaryAttr, StringAttr
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.rewriter import InsertPoint

from ...ir import attn, poly, tile
from ...ir.attributes import LINES, Dim
from ...ir.dtypes import itemsize
from ...ir.expr import Const, Expr, Lambda, Op, Var, ceildiv, free_vars, kind_of, lt, op, parse_lambda, rewrite, walk
from ...ir.gradient import AttendGradientOp
from ...ir.tile import Axis, MemType, Range, TileType
from ..analysis.bounds import max_over

LOG2_E = math.log2(math.e)
STEEP = 1e4
LN_2 = math.log(2)
MINUS_INF = Const(-math.inf)
ZERO = Const(0.0)

# What a value of a kernel is called -> the parts of the attention that it computes; `_REST`, if not here.
# A constant factor of the score is folded into the running maximum and the probabilities.
ROLES = {
    **dict.fromkeys(("query", "key", "dot", "dq", "dk"), ("dot",)),
    **dict.fromkeys(("score", "ds"), ("score",)),
    **dict.fromkeys(("m", "p"), ("score", "softmax")),
    **dict.fromkeys(("value", "scaled", "acc", "out", "grad", "dp", "dv"), ("out",)),
}
_REST = ("softmax",)
_MASK = re.compile(r"mask\d*")


class KernelBuilder:
    """Appends ops to a kernel.  ``sizes`` are those of all axes that its tiles may have."""

    def __init__(self, kernel: tile.KernelOp, sizes: Mapping[str, int], compute: Attribute):
        self.kernel = kernel
        self.sizes = sizes
        self.compute = compute
        self._builder = Builder(InsertPoint.at_end(kernel.body.block))

    def type(self, *axes: str, element: Attribute | None = None) -> TileType:
        """The type of a tile with these axes."""
        return TileType.of({a: self.sizes[a] for a in axes}, element or self.compute)

    def add(self, hint: str, operation: Operation) -> SSAValue:
        """Append an op and name its result."""
        self._insert(hint, operation)
        operation.results[0].name_hint = hint
        return operation.results[0]

    def _insert(self, hint: str, operation: Operation) -> None:
        """Append an op that comes from the user's lines for the roles that ``hint`` stands for."""
        self._builder.insert(operation)
        known = self.kernel.attributes.get(LINES)
        if isinstance(known, DictionaryAttr):
            wanted = ((hint if hint in known.data else "mask"),) if _MASK.fullmatch(hint) else ROLES.get(hint, _REST)
            roles = [known.data[r] for r in wanted if r in known.data]
            lines = [x for role in roles if isinstance(role, StringAttr) for x in role.data.split(", ")]
            if lines:
                operation.attributes[LINES] = StringAttr(", ".join(sorted(set(lines), key=_by_line)))

    def full(self, hint: str, value: Expr, *axes: str) -> SSAValue:
        return self.add(hint, tile.FullOp(value, self.type(*axes)))

    def load(self, hint: str, memory: SSAValue, index: Sequence[Expr], *axes: str) -> SSAValue:
        """A tile of the memory's element type."""
        return self.add(hint, tile.LoadOp(memory, index, self.type(*axes, element=element_of(memory))))

    def map(self, hint: str, function: str | Lambda, inputs: Iterable[SSAValue], *axes: str) -> SSAValue:
        function = parse_lambda(function) if isinstance(function, str) else function
        return self.add(hint, tile.MapOp(function, list(inputs), self.type(*axes)))

    def round(self, value: SSAValue, to: Attribute) -> SSAValue:
        """``value`` in a narrower type, as matrix units take their operands."""
        if to == self.compute:
            return value
        hint, axes = value.name_hint or "x", tile.tile_type(value).shape
        same = Lambda((hint,), Var(hint, "float"))
        return self.add(hint, tile.MapOp(same, [value], self.type(*axes, element=to)))

    def dot(self, hint: str, lhs: SSAValue, rhs: SSAValue, *axes: str, acc: SSAValue | None = None) -> SSAValue:
        return self.add(hint, tile.DotOp(lhs, rhs, self.type(*axes), acc))

    def band(
        self, hint: str, lhs: SSAValue, memory: SSAValue, index: Sequence[Expr], *axes: str, acc: SSAValue | None = None
    ) -> SSAValue:
        return self.add(hint, tile.BandDotOp(lhs, memory, index, self.type(*axes), acc))

    def band_add(self, pairs: SSAValue, lhs: SSAValue, memory: SSAValue, index: Sequence[Expr]) -> None:
        self._insert("", tile.BandAddOp(pairs, lhs, memory, index))

    def reduce(self, hint: str, kind: str, value: SSAValue, *axes: str) -> SSAValue:
        return self.add(hint, tile.ReduceOp(kind, value, self.type(*axes)))

    def mask(self, value: SSAValue, condition: Expr, source: int | None = None) -> SSAValue:
        """``value`` where the condition holds: that of the source with this number, or of any."""
        if condition == Const(True):
            return value
        masked = tile.MaskOp(value, condition)
        self._insert("mask" if source is None else f"mask{source}", masked)
        masked.result.name_hint = "masked"
        return masked.result

    def store(self, value: SSAValue, memory: SSAValue, index: Sequence[Expr], *, add: bool = False) -> None:
        self._insert(value.name_hint or "", tile.StoreOp(value, memory, index, add=add))

    def loop(
        self,
        axis: Dim,
        mask: Expr,
        state: Sequence[SSAValue],
        body: Callable[[Sequence[SSAValue]], Sequence[SSAValue]],
    ) -> list[SSAValue]:
        """Walk all of ``axis``; ``body`` gives the next carried tiles from these."""
        hints = [value.name_hint or "carried" for value in state]
        block = Block(arg_types=[v.type for v in state])
        outer, self._builder = self._builder, Builder(InsertPoint.at_end(block))
        for arg, hint in zip(block.args, hints, strict=True):
            arg.name_hint = hint
        self._builder.insert(tile.YieldOp(list(body(block.args))))
        self._builder = outer
        kind = "full" if mask == Const(True) else "partial"
        ranges = [Range(Const(0), axis.extent)]
        loop = tile.ForOp(axis.name, kind, self.sizes[axis.name], ranges, list(state), Region(block))
        inherit(self.kernel, loop)
        self._builder.insert(loop)
        for result, hint in zip(loop.results_, hints, strict=True):
            result.name_hint = hint
        return list(loop.results_)


def live_weights(b: KernelBuilder, masked: SSAValue, mask: Expr) -> SSAValue:
    """Scores that are weights themselves: what the mask made -inf counts 0."""
    if mask == Const(True):
        return masked
    return b.map("p", "lambda s: where(s == -inf, 0.0, s)", [masked], *tile.tile_type(masked).shape)


def _by_line(place: str) -> tuple[str, int]:
    """``file.py:12`` in the order of the file."""
    file, _, line = place.rpartition(":")
    return file, int(line) if line.isdigit() else 0


def batch_grid(dims: Sequence[Dim]) -> list[Dim]:
    """Grid dimensions that cover a domain, ragged or not."""
    return [Dim(d.name, max_over(d.extent, dims[:n])) for n, d in enumerate(dims)]


def row_tiles(task: str, rows: Dim, batch: Sequence[Dim], size: int) -> tuple[Dim, Axis]:
    """The grid dimension that counts tiles of ``rows``, and the row axis: without rows outside a ragged domain."""
    bound = rows.extent
    for n, d in enumerate(batch):
        if free_vars(d.extent) & {outer.name for outer in batch[:n]}:  # the grid is wider
            bound = op("where", lt(Var(d.name), d.extent), bound, 0)
    count = Dim(task, ceildiv(max_over(rows.extent, batch), size))
    return count, Axis(rows.name, Var(task) * size, size, bound)


def by_locality(batch: Sequence[Dim], tiles: Dim, row: str, index: Sequence[Expr]) -> list[Dim]:
    """A grid in the order of memory: dimensions that ``index`` counts between two rows vary fastest, then ``tiles``.

    Rows ``i * 8 + r`` of one ``r`` lie far apart, and what lies between them are those of the other ``r``.
    """
    inner: set[str] = set()
    for e in index:
        terms = poly.of_expr(e) if row in free_vars(e) else None
        if terms and (step := terms.get((Var(row),))):
            inner |= {d.name for d in batch if 0 < terms.get((Var(d.name),), 0) < step}
    return [*(d for d in batch if d.name not in inner), tiles, *(d for d in batch if d.name in inner)]


def split_factor(score: Lambda) -> tuple[Lambda, float]:
    """``score`` as another score times a positive constant; what it divides by constants, it multiplies."""
    score = Lambda(score.params, rewrite(score.body, _multiplied))
    match score.body:
        case Op("*", (x, Const(c))) | Op("*", (Const(c), x)) if c > 0:
            return Lambda(score.params, x), float(c)
    return score, 1.0


def steep(sources: Sequence[attn.Source]) -> bool:
    """May a row hold nothing but huge scores, such as a fill of -1e9 or the least number of a type?

    Times log2(e) they lose what they differ by, or overflow: their difference, which is exact, comes first.
    """
    numbers = (e.value for s in sources for e in walk(s.score.body) if isinstance(e, Const))
    return any(STEEP <= abs(x) < math.inf for x in numbers if not isinstance(x, bool))


def wants_weights(op: attn.AttendOp | AttendGradientOp) -> bool:
    """Has the log-sum-exp too few digits for a gradient?  See ``keep-weights``."""
    wide = any(itemsize(attn.tensor_type(x).element) > 2 for x in (op.query, *op.keys, *op.values, op.out))
    return op.normalised and (wide or steep(op.source_list))


def in_own_units(op: attn.Attention) -> bool:
    """Are differences of scores taken before they get into base 2?"""
    return op.units.data == "natural" if op.units else steep(op.source_list)


def _multiplied(e: Expr) -> Expr | None:
    """``x * (1 / c)`` for ``x / c``."""
    match e:
        case Op("/", (x, Const(c))) if c and math.isfinite(c) and kind_of(x) == "float":
            return x * (1.0 / c)
    return None


def names_taken(op: attn.Attention) -> set[str]:
    """Names that a kernel for ``op`` must not give to something else."""
    taken = {d.name for d in op.domain} | {s.key for s in op.source_list} | {"d", "e"} | set(op.captured)
    return taken.union(*(free_vars(s) for v in op.operands for s in attn.tensor_type(v).shape))


def fresh(name: str, taken: set[str]) -> str:
    """``name``, numbered if need be, so that it differs from all names taken; takes it."""
    candidate, n = name, 1
    while candidate in taken:
        candidate, n = f"{name}{n}", n + 1
    taken.add(candidate)
    return candidate


def memory_of(value: SSAValue) -> MemType:
    """The memory that a tensor is to a kernel."""
    type = attn.tensor_type(value)
    return MemType.of(len(type.shape), type.element)


def element_of(memory: SSAValue) -> Attribute:
    """The element type of a memory."""
    return tile.memory_type(memory).element


def inherit(source: Operation, to: Operation) -> None:
    """Copy the user's lines."""
    for name in ("at", LINES):
        if name in source.attributes:
            to.attributes[name] = source.attributes[name]
