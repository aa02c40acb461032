"""What would make a function faster, as far as its explanation tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .analysis import cost
from .explain_text import percent, unit

if TYPE_CHECKING:
    from .explain import Explanation, KernelInfo

WASTEFUL = 1.5  # pairs computed for each live one, from which on tiles are too coarse for the pattern
NOTABLE = 0.05  # of the predicted time


def advice(e: Explanation) -> list[str]:
    """Each a sentence, most important first."""
    found = [
        f"{op.at}: {op.reason}; written so that it fuses, it would not allocate {unit(op.bytes, 1024, 'B')}"
        for op in e.eager_ops
        if op.quadratic
    ]
    for kernel in e.kernels:
        found += _pattern(kernel)
    if not e.kernels:
        return found
    on = cost.device(e.target)
    faster = [d for d in ("bf16", "f16") if on.peak[d] > 1.5 * on.peak.get(e.dtype, on.peak["f32"])]
    if e.dtype in ("f32", "f64") and faster and e.roofline.bound_by == "arithmetic":
        gain = on.peak[faster[0]] / on.peak[e.dtype]
        found.append(
            f"{faster[0]} inputs: {on.name} multiplies them {gain:.3g} times as fast as {e.dtype}, on its matrix units"
            if on.is_gpu or on.matrix
            else f"{faster[0]} inputs: {on.name} multiplies them {gain:.3g} times as fast as {e.dtype}"
        )
    elif e.dtype in ("f32", "f64") and e.roofline.bound_by == "memory":
        found.append("memory is the limit: inputs of 16 bits move half the bytes" + " or less" * (e.dtype == "f64"))
    moved = sum(op.bytes for op in e.eager_ops if not op.quadratic)
    if moved and moved / on.bandwidth > NOTABLE * e.seconds:
        lines = ", ".join(dict.fromkeys(op.at for op in e.eager_ops if not op.quadratic and op.at))
        found.append(f"{lines}: PyTorch writes and reads {unit(moved, 1024, 'B')} there, outside of the kernels")
    return found


def _pattern(k: KernelInfo) -> list[str]:
    if k.live_pairs is None:
        return [
            f"{k.at}: the mask of {k.name} depends on data, so every tile is visited; a condition on positions beside "
            "it (causal, a window) lets tiles be skipped"
        ]
    computed = k.coverage.computed_pairs
    if not k.live_pairs or computed <= WASTEFUL * k.live_pairs:
        return []
    rows, keys = k.tiles
    return [
        f"{k.name} computes {computed / k.live_pairs:.2g} pairs for each live one ({percent(k.live_pairs / computed)} "
        f"are live): the pattern is finer than tiles of {rows} x {keys}; wider bands or blocks of {rows} or more rows "
        "cost no more"
    ]
