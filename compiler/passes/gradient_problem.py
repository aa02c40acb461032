"""An attention to differentiate, as its gradient kernels see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from xdsl.ir import Attribute, SSAValue

from ...ir import attn
from ...ir.attend import weights_at
from ...ir.attributes import Dim
from ...ir.derivative import derivative
from ...ir.dtypes import accumulator
from ...ir.expr import Const, Expr, Lambda, Var, substitute
from ...ir.gradient import AttendGradientOp
from .kernel_builder import in_own_units, names_taken

DOT = Var("dot", "float")


@dataclass(frozen=True)
class Problem:
    """Domain, maps and sources, free of tensors; the dimensions may be split for one kernel."""

    op: AttendGradientOp
    batch: tuple[Dim, ...]
    row: Dim
    query_map: tuple[Expr, ...]
    out_map: tuple[Expr, ...]
    lse_map: tuple[Expr, ...]
    sources: tuple[attn.Source, ...]
    facts: tuple[Expr, ...]
    taken: set[str] = field(compare=False)

    @staticmethod
    def of(op: AttendGradientOp, facts: tuple[Expr, ...]) -> Problem:
        *batch, row = op.domain
        maps = op.query_map.data, op.out_map.data, op.lse_map.data
        return Problem(op, tuple(batch), row, *maps, tuple(op.source_list), facts, names_taken(op))

    @property
    def compute(self) -> Attribute:
        """The type in which everything is computed."""
        return accumulator(attn.tensor_type(self.op.query).element)

    @property
    def features(self) -> tuple[Dim, Dim]:
        """The feature axes of queries and keys, and of values."""
        return Dim("d", Const(self.op.width.data)), Dim("e", Const(self.op.value_width.data))

    def type(self, role: str) -> attn.TensorType:
        """The type of the operand that ``wanted`` calls ``role``, and of its gradient."""
        return attn.tensor_type(self.op.by_name[role])

    def key(self, n: int) -> Dim:
        """The keys of source ``n``."""
        return Dim(self.sources[n].key, self.sources[n].extent)

    def depends_on_dot(self, n: int) -> bool:
        """Does the score of source ``n`` vary with the inner product, so that its keys have gradients?"""
        return derivative(self.sources[n].score.body, DOT) != Const(0.0)

    @property
    def whole(self) -> bool:
        """Does one tile of keys hold all keys of every query, as in attention within small groups?"""
        assert self.op.tiles is not None
        count = self.sources[0].extent
        return len(self.sources) == 1 and isinstance(count, Const) and 0 < count.value <= self.op.tiles.data[0]

    @property
    def own_units(self) -> bool:
        """Are differences of scores taken first, and in base 2 afterwards?"""
        return in_own_units(self.op)

    @property
    def rows(self) -> attn.TensorType:
        """The type of a number for each row."""
        shape = attn.tensor_type(self.op.rows).shape
        return attn.TensorType.of(shape[1:] if self.op.units else shape, self.compute)

    @property
    def weights_maps(self) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
        """Where the peak of a row is, and the inverse of its sum."""
        return weights_at(self.lse_map)

    def sizes(self, rows: str) -> dict[str, int]:
        """The size of every axis, when ``rows`` is the one that a task holds a tile of."""
        assert self.op.tiles is not None
        size, step = self.op.tiles.data
        axes = {s.key: step for s in self.sources} | {self.row.name: step, rows: size}
        return axes | {"d": self.op.width.data, "e": self.op.value_width.data}

    def substituted(self, batch: tuple[Dim, ...], by: dict[str, Expr], simplify: Callable[[Expr], Expr]) -> Problem:
        """The same attention over other batch dimensions, in terms of which ``by`` gives the old ones."""

        def change(e: Expr) -> Expr:
            return simplify(substitute(e, by))

        def moved(index: tuple[Expr, ...]) -> tuple[Expr, ...]:
            return tuple(change(e) for e in index)

        sources = tuple(
            attn.Source(
                s.key,
                change(s.extent),
                moved(s.key_map),
                moved(s.value_map),
                change(s.mask),
                Lambda(s.score.params, change(s.score.body)),
            )
            for s in self.sources
        )
        return replace(
            self,
            batch=batch,
            row=Dim(self.row.name, change(self.row.extent)),
            query_map=moved(self.query_map),
            out_map=moved(self.out_map),
            lse_map=moved(self.lse_map),
            sources=sources,
        )


def tensors_of(op: AttendGradientOp) -> dict[str, SSAValue]:
    """The tensors that the op reads, by role; without captured ones."""
    roles = {"query": op.query}
    roles |= {f"key{n}": v for n, v in enumerate(op.keys)} | {f"value{n}": v for n, v in enumerate(op.values)}
    given = {"out": op.out, "weights" if op.units else "lse": op.rows, "d_out": op.d_out, "d_lse": op.d_lse}
    return roles | {name: v for name, v in given.items() if v is not None}
