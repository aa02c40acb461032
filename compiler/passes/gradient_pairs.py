"""The pairs of one tile, recomputed: probabilities and the gradient of the score.

With the weights of a row at hand the softmax needs no second walk: ``p = exp2(s * c - peak) * inverse``, the same
floats as in ``online-softmax``; where it kept ``lse`` alone, ``p = exp2(s * c - lse * log2(e))``.  The gradient of the
score is ``p * (d_out . value - delta)``, where ``delta`` is ``out . d_out`` less the gradient of ``lse``.  Its constant
factor rides on a multiply-add.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import Attribute, SSAValue

from ...ir.derivative import derivative
from ...ir.expr import Const, Expr, Lambda, Load, Op, Var, free_vars, op, rewrite
from .gradient_frame import Frame
from .gradient_problem import DOT
from .inner_products import load_lefts, named, tiles_of
from .kernel_builder import LOG2_E, element_of, fresh, live_weights, split_factor
from .running_softmax import power, scaled


@dataclass(frozen=True)
class Queries:
    """What pairs need to know about a tile of queries; tiles are loaded where this is made."""

    query: SSAValue
    gradient: SSAValue | None  # of the output
    shift: SSAValue | None  # what scores are less; None without a normaliser; 0 for rows without keys
    inverse: SSAValue | None  # what weights are times, with ``shift`` a peak and no log-sum-exp
    delta: SSAValue | None  # what is subtracted; without a gradient of the output, what is added
    dlse: SSAValue | None  # the gradient of lse, where it is not in delta; 0 for rows without keys
    lefts: Mapping[Load, SSAValue]  # operands of inner products that scores hold themselves

    @staticmethod
    def load(frame: Frame) -> Queries:
        """Load a tile."""
        b, problem, i = frame.builder, frame.problem, frame.problem.row.name
        query = b.load("query", frame.memory["query"], problem.query_map, i, "d")
        lefts = load_lefts(b, captured(frame), problem.sources, i)
        gradient = delta = inverse = dlse = None
        if "d_out" in frame.memory:
            gradient = b.load("grad", frame.memory["d_out"], problem.out_map, i, "e")
        if not problem.op.normalised:
            return Queries(query, gradient, None, None, None, None, lefts)
        if "weights" in frame.memory:
            names, maps = ("shift", "inverse"), problem.weights_maps
            shift, inverse = (b.load(n, frame.memory["weights"], m, i) for n, m in zip(names, maps, strict=True))
        else:
            lse = b.load("lse", frame.memory["lse"], problem.lse_map, i)
            shift = b.map("shift", f"lambda lse: where(lse == -inf, 0.0, lse * {LOG2_E!r})", [lse], i)
        if "delta" in frame.memory:
            delta = b.load("delta", frame.memory["delta"], problem.lse_map, i)
        elif "d_lse" in frame.memory:
            dlse = gradient_of_lse(frame)
        if gradient is None:
            delta = dlse
        return Queries(query, gradient, shift, inverse, delta, dlse, lefts)


def gradient_of_lse(frame: Frame) -> SSAValue:
    """A tile of it: nothing for rows without keys, whose ``lse`` is a constant."""
    b, problem, i = frame.builder, frame.problem, frame.problem.row.name
    given = b.load("dlse", frame.memory["d_lse"], problem.lse_map, i)
    if "weights" in frame.memory:
        inverse = b.load("inverse", frame.memory["weights"], problem.weights_maps[1], i)
        return b.map("dlse", "lambda dlse, inverse: where(inverse == 0.0, 0.0, dlse)", [given, inverse], i)
    lse = b.load("lse", frame.memory["lse"], problem.lse_map, i)
    return b.map("dlse", "lambda dlse, lse: where(lse == -inf, 0.0, dlse)", [given, lse], i)


@dataclass(frozen=True)
class Keys:
    """A tile of keys and their values."""

    key: SSAValue
    value: SSAValue

    @staticmethod
    def load(frame: Frame, n: int) -> Keys:
        b, source = frame.builder, frame.problem.sources[n]
        key = b.load("key", frame.memory[f"key{n}"], source.key_map, source.key, "d")
        return Keys(key, b.load("value", frame.memory[f"value{n}"], source.value_map, source.key, "e"))


class Pairs:
    """Source ``n`` of a kernel; ``by`` are the derivatives of the score that :meth:`tiles` is asked for."""

    def __init__(self, frame: Frame, n: int, wanted: Sequence[Var | Expr]):
        self.frame = frame
        self.source = frame.problem.sources[n]
        self.score, self.factor = split_factor(self.source.score)
        self.products: Mapping[Op, SSAValue] = {}  # of the tile at hand
        self.slopes = [derivative(self.score.body, of) for of in wanted]  # type: ignore[arg-type]
        constants = [s.value * self.factor for s in self.slopes if isinstance(s, Const) and s.value]
        # the factor that the score's gradient is computed with: one that saves a product
        self.scale = float(constants[0]) if len(constants) == len(self._live) and constants else self.factor

    @property
    def flat(self) -> bool:
        """Do the scores not depend on anything wanted?"""
        return not self._live

    @property
    def _live(self) -> list[Expr]:
        return [s for s in self.slopes if s != Const(0.0)]

    def row_delta(self, queries: Queries) -> SSAValue | None:
        """``delta`` as :meth:`tiles` wants it; to be made where the queries are loaded."""
        return None if queries.delta is None else self._scaled(queries.delta)

    def _scaled(self, delta: SSAValue) -> SSAValue:
        c = self.scale
        if c == 1.0:
            return delta
        return self.frame.builder.map("delta", f"lambda delta: delta * {c!r}", [delta], self.frame.problem.row.name)

    def tiles(
        self, queries: Queries, keys: Keys, delta: SSAValue | None, *axes: str
    ) -> tuple[SSAValue, list[SSAValue | None]]:
        """Probabilities, and the gradients with respect to what was wanted (None is zero), over ``axes``.

        Without ``delta``, these are all pairs of their queries, whose sum of ``p * dp`` it is.
        """
        b = self.frame.builder
        by_row = axes[0] == self.frame.problem.row.name
        dot, s = self.scores(queries.query, keys, queries.lefts, *axes)
        if queries.shift is None:
            return self._sums(queries, keys, dot, s, axes)
        p = self._probabilities(b.mask(s, self.source.mask), queries.shift, queries.inverse, axes)
        if not self._live:
            return p, [None] * len(self.slopes)
        if queries.gradient is None:
            assert delta is not None
            return p, self._gradients("delta", [p, delta], dot, s, axes)
        dp = b.dot("dp", *_in_order(queries.gradient, keys.value, by_row), *axes)
        if delta is None:
            delta = self._scaled(self._delta(p, dp, queries, axes))
        times = "dp - delta" if self.scale == 1.0 else f"dp * {self.scale!r} - delta"
        return p, self._gradients(times, [p, dp, delta], dot, s, axes)

    def scores(
        self, query: SSAValue, keys: Keys, lefts: Mapping[Load, SSAValue], *axes: str
    ) -> tuple[SSAValue, SSAValue]:
        """Inner products, and scores but for their constant factor and the mask."""
        b, row = self.frame.builder, self.frame.problem.row.name
        self.products = tiles_of(b, captured(self.frame), self.source, row, lefts, *axes)
        dot = b.dot("dot", *_in_order(query, keys.key, axes[0] == row), *axes)
        if self.score.body == DOT:
            return dot, dot
        score, bands = named(self.score, self.products)
        return dot, b.map("score", score, [dot, *bands], *axes)

    def _sums(
        self, queries: Queries, keys: Keys, dot: SSAValue, s: SSAValue, axes: Sequence[str]
    ) -> tuple[SSAValue, list[SSAValue | None]]:
        """Without a normaliser: the scores are the weights, and what comes in is the gradient of the score."""
        b, mask, by_row = self.frame.builder, self.source.mask, axes[0] == self.frame.problem.row.name
        p = s if self.factor == 1.0 else b.map("p", f"lambda s: s * {self.factor!r}", [s], *axes)
        masked = b.mask(p, mask)
        p = live_weights(b, masked, mask)
        if not self._live:
            return p, [None] * len(self.slopes)
        assert queries.gradient is not None
        dp = b.dot("dp", *_in_order(queries.gradient, keys.value, by_row), *axes)
        times = "dp" if self.scale == 1.0 else f"dp * {self.scale!r}"
        if mask != Const(True):
            base = b.map("ds", f"lambda s, dp: where(s == -inf, 0.0, {times})", [masked, dp], *axes)
        else:
            base = dp if self.scale == 1.0 else b.map("ds", f"lambda dp: {times}", [dp], *axes)
        return p, [None if slope == Const(0.0) else self._times(base, slope, dot, s, axes) for slope in self.slopes]

    def _delta(self, p: SSAValue, dp: SSAValue, queries: Queries, axes: Sequence[str]) -> SSAValue:
        b, i = self.frame.builder, self.frame.problem.row.name
        delta = b.reduce("delta", "sum", b.map("product", "lambda p, dp: p * dp", [p, dp], *axes), i)
        if queries.dlse is None:
            return delta
        return b.map("delta", "lambda delta, dlse: delta - dlse", [delta, queries.dlse], i)

    def _probabilities(self, s: SSAValue, shift: SSAValue, inverse: SSAValue | None, axes: Sequence[str]) -> SSAValue:
        b, own_units = self.frame.builder, self.frame.problem.own_units
        weight = power(f"{scaled('s', self.factor, own_units)} - shift", own_units)
        if inverse is None:
            return b.map("p", f"lambda s, shift: {weight}", [s, shift], *axes)
        return b.map("p", f"lambda s, shift, inverse: {weight} * inverse", [s, shift, inverse], *axes)

    def _gradients(
        self, times: str, inputs: list[SSAValue], dot: SSAValue, s: SSAValue, axes: Sequence[str]
    ) -> list[SSAValue | None]:
        b = self.frame.builder
        names = ["p", "dp", "delta"] if len(inputs) == 3 else ["p", "delta"]
        base = b.map("ds", f"lambda {', '.join(names)}: p * ({times})", inputs, *axes)
        return [None if slope == Const(0.0) else self._times(base, slope, dot, s, axes) for slope in self.slopes]

    def _times(self, base: SSAValue, slope: Expr, dot: SSAValue, s: SSAValue, axes: Sequence[str]) -> SSAValue:
        """The gradient ``base`` of the score, ``scale`` times, by the slope."""
        by = op("*", slope, self.factor / self.scale)
        if isinstance(by, Const):
            if by.value == 1.0:
                return base
        taken = set(free_vars(by) | free_vars(self.score.body))
        ds, value = Var(fresh("ds", taken), "float"), Var(fresh("s", taken), "float")
        if self.score.body != DOT:
            by = rewrite(by, lambda e: value if e == self.score.body else None)
        used = [(v, x) for v, x in ((DOT, dot), (value, s)) if v.name in free_vars(by)]
        params = (ds.name, *(v.name for v, _ in used))
        function, bands = named(Lambda(params, Op("*", (ds, by))), self.products)
        return self.frame.builder.map("ds", function, [base, *(x for _, x in used), *bands], *axes)


def captured(frame: Frame) -> dict[str, SSAValue]:
    """The memories of captured tensors by the names that scores use."""
    return {role.partition(":")[2]: m for role, m in frame.memory.items() if role.startswith("capture:")}


def _in_order(query: SSAValue, key: SSAValue, by_row: bool) -> tuple[SSAValue, SSAValue]:
    return (query, key) if by_row else (key, query)


def rounded(frame: Frame, value: SSAValue, like: str, narrow: bool) -> SSAValue:
    """``value`` in the type of the memory ``like``, where products want that."""
    element: Attribute = element_of(frame.memory[like])
    return frame.builder.round(value, element) if narrow else value
