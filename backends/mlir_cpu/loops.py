"""The key loop of a kernel: its ranges, one after the other, in steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...ir.expr import Const
from ...ir.tile import ForOp, Range
from .builder import Val
from .frame import Frame, Span


def one_range(ranges: Iterable[Range]) -> tuple[int, int] | None:
    """What loops walk, from the first to the end, where that is one range of numbers."""
    match list({(r.lo, r.hi) for r in ranges}):
        case [(Const(int(first)), Const(int(end)))]:
            return first, end
    return None


def walk_ranges(f: Frame, op: ForOp, body: Callable[[Frame], None]) -> None:
    """Emit ``body`` in a frame that knows the loop's axis, once for all ranges: code for each would cost more to
    compile than it saves."""
    f.b.comment(f"tile.for {op.axis.data} in {[r.text() for r in op.ranges]} step {op.step.data} {op.kind.data}")
    b, scope, scalar = f.b, f.scalar_scope(), f.expressions.scalar
    bounds = [(scalar(r.lo, scope), scalar(r.hi, scope)) for r in op.range_list]
    if len(bounds) == 1:
        _walk(f, op, *bounds[0], body)
        return
    with b.loop(0, len(bounds), hint="range") as loop:
        low, high = bounds[-1]
        for n, (lo, hi) in reversed(list(enumerate(bounds[:-1]))):
            this = b.cmpi("eq", loop.iv, b.integer(n))
            low, high = b.select(this, lo, low), b.select(this, hi, high)
        _walk(f, op, low, high, body)


def _walk(f: Frame, op: ForOp, low: Val, high: Val, body: Callable[[Frame], None]) -> None:
    first, end = f.b.known(low), f.b.known(high)
    if first is not None and end is not None and 0 < end - first <= op.step.data:
        # one step, of which all that follows knows how long it is
        body(f.inside({op.axis.data: Span(low, f.b.integer(end - first))}))
        return
    with f.b.loop(low, high, op.step.data, hint=op.axis.data) as loop:
        count = f.b.least(f.b.sub(high, loop.iv), op.step.data)
        body(f.inside({op.axis.data: Span(loop.iv, count)}))
