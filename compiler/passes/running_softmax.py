"""The maximum and the sum of a row's scores, kept up to date tile by tile: what an online softmax carries.

Scores are in base 2, a factor and log2(e) being one multiplier, or in units of their own: see ``in_own_units``.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import SSAValue

from ...ir.expr import Expr
from .kernel_builder import LOG2_E, MINUS_INF, ZERO, KernelBuilder


def scaled(score: str, factor: float, own_units: bool) -> str:
    """A score, ``factor`` times as large, in the units of the maximum."""
    c = factor if own_units else factor * LOG2_E
    return score if c == 1.0 else f"{score} * {c!r}"


def power(difference: str, own_units: bool) -> str:
    """The weight that a difference in these units stands for."""
    return f"exp2(({difference}) * {LOG2_E!r})" if own_units else f"exp2({difference})"


def start(b: KernelBuilder, i: str) -> list[SSAValue]:
    """Maximum and sum of no scores."""
    return [b.full("m", MINUS_INF, i), b.full("l", ZERO, i)]


def fold(
    b: KernelBuilder, state: Sequence[SSAValue], s: SSAValue, factor: float, own_units: bool, i: str, j: str
) -> tuple[SSAValue, SSAValue, SSAValue, SSAValue]:
    """Maximum and sum with one more tile of scores; what older sums are to be scaled by; the tile's weights."""
    m, l = state
    peak = b.reduce("peak", "max", s, i)
    m_new = b.map("m", f"lambda m, peak: max(m, {scaled('peak', factor, own_units)})", [m, peak], i)
    shift = b.map("shift", "lambda m: where(m == -inf, 0.0, m)", [m_new], i)
    alpha = b.map("alpha", f"lambda m, shift: {power('m - shift', own_units)}", [m, shift], i)
    weight = power(f"{scaled('s', factor, own_units)} - shift", own_units)
    p = b.map("p", f"lambda s, shift: {weight}", [s, shift], i, j)
    total = b.reduce("total", "sum", p, i)
    l_new = b.map("l", "lambda l, alpha, total: l * alpha + total", [l, alpha, total], i)
    return m_new, l_new, alpha, p


def inverse(b: KernelBuilder, l: SSAValue, i: str) -> SSAValue:
    """What weights are multiplied by in the end."""
    return b.map("inv", "lambda l: where(l > 0.0, 1.0 / l, 0.0)", [l], i)


def store_weights(
    b: KernelBuilder,
    m: SSAValue,
    inverse: SSAValue,
    memory: SSAValue,
    maps: tuple[tuple[Expr, ...], tuple[Expr, ...]],
    i: str,
) -> None:
    """Keep what the weights of a row are computed again from."""
    peak = b.map("peak", "lambda m: where(m == -inf, 0.0, m)", [m], i)
    for value, index in zip((peak, inverse), maps, strict=True):
        b.store(value, memory, index)
