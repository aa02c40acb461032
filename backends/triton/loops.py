"""Loops over key ranges.

One range::

    for start in range(lo, hi, 128):          partial: the pattern's mask also ends the last step
        ...

    whole = lo + tl.maximum(hi - lo, 0) // 128 * 128
    for start in range(lo, whole, 128):       full: no mask at all ...
        ...
    if whole < hi:                            ... and the last, incomplete step apart
        ...

Where a partial loop over the same axis follows, the incomplete step is one more range of that instead, for its masks
hold there.  Several ranges run in one loop over all their steps, so that the body is printed, and pipelined, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xdsl.ir import Operation, SSAValue

from ...ir.tile import DotOp, ForOp
from .facts import divisible
from .layout import AxisCode, padded
from .order import products_first
from .targets import target_named

if TYPE_CHECKING:
    from .emit import Emitter


def emit_loop(emitter: Emitter, op: ForOp) -> None:
    """Print a loop; its results are the variables that it carries."""
    carried = [_carried_name(emitter, op, n) for n in range(len(op.initial))]
    names, step = emitter.names, op.step.data
    ranges = op.range_list
    rest = emitter.rests.pop(op, [])
    saved = emitter.axes.get(op.axis.data)
    emitter.addresses.enter(op)
    named = emitter.ranges(op)
    del emitter.bounds[op]
    if len(ranges) == 1 and not rest:
        lo, hi = named[0]
        whole = padded(step) == step and divisible(ranges[0].lo, step) and divisible(ranges[0].hi, step)
        if op.kind.data == "partial" or padded(step) != step or whole:
            _steps(emitter, op, carried, (lo, hi), None if whole else hi)
        else:
            end = names.fresh("whole")
            plus, minus = ("", "") if lo == "0" else (f"{lo} + ", f" - {lo}")
            emitter.line(f"{end} = {plus}tl.maximum({hi}{minus}, 0) // {step} * {step}")
            _steps(emitter, op, carried, (lo, end), None, "  # whole steps")
            if _continues(op):
                emitter.rests[op.next_op] = [(end, hi)]
            else:
                emitter.line(f"if {end} < {hi}:  # the rest")
                with names.inside():
                    _body(emitter, op, carried, end, hi)
    elif ranges or rest:
        _concatenated(emitter, op, carried, [*named, *rest])
    for value, name in zip(op.results_, carried, strict=True):
        emitter.values[value] = name
        emitter.fills[value] = {}
    if saved is None:
        emitter.axes.pop(op.axis.data, None)
    else:
        emitter.axes[op.axis.data] = saved


def _continues(op: ForOp) -> bool:
    """Is the op after a full loop the one over the rest of the same keys, whose masks hold for the full loop's too?"""
    after = op.next_op
    return (
        isinstance(after, ForOp)
        and "rest" in after.attributes
        and (after.axis, after.step) == (op.axis, op.step)
        and list(after.initial) == list(op.results_)
    )


def _steps(
    emitter: Emitter, op: ForOp, carried: list[str], ends: tuple[str, str], hi: str | None, comment: str = ""
) -> None:
    """The steps between two ends."""
    with emitter.names.inside():
        start = emitter.names.fresh("start")
        emitter.line(f"for {start} in {_range(emitter, op, f'{ends[0]}, {ends[1]}, {op.step.data}')}:{comment}")
        _body(emitter, op, carried, start, hi)


def _concatenated(emitter: Emitter, op: ForOp, carried: list[str], named: list[tuple[str, str]]) -> None:
    step, names = op.step.data, emitter.names
    turns: list[str] = []  # how many there are when a range ends
    for n, (lo, hi) in enumerate(named):
        name = names.fresh(f"turns{n}")
        before = f"{turns[-1]} + " if turns else ""
        emitter.line(f"{name} = {before}(tl.maximum({hi} - {lo}, 0) + {step - 1}) // {step}")
        turns.append(name)
    with names.inside():
        turn, start, end = (names.fresh(x) for x in ("turn", "start", "end"))
        first = bound = ""
        for n in reversed(range(len(named))):
            lo, hi = named[n]
            here = f"{lo} + {f'({turn} - {turns[n - 1]})' if n else turn} * {step}"
            first = f"tl.where({turn} < {turns[n]}, {here}, {first})" if first else here
            bound = f"tl.where({turn} < {turns[n]}, {hi}, {bound})" if bound else hi
        walk = _range(emitter, op, f"0, {turns[-1]}")
        emitter.line(f"for {turn} in {walk}:  # {len(named)} ranges, one after the other")
        with emitter.source.indented():
            emitter.line(f"{start} = {first}")
            emitter.line(f"{end} = {bound}")
        _body(emitter, op, carried, start, end)


def _body(emitter: Emitter, op: ForOp, carried: list[str], start: str, hi: str | None) -> None:
    """One step of the loop; with ``hi`` None all its keys are live."""
    step, axis = op.step.data, op.axis.data
    for arg, name in zip(op.carried, carried, strict=True):
        emitter.values[arg] = name
        emitter.fills[arg] = {}
    with emitter.source.indented():
        index = emitter.names.fresh(axis)
        emitter.line(f"{index} = {start} + tl.arange(0, {padded(step)})")
        if hi is not None and padded(step) != step:
            end = emitter.names.fresh(f"{axis}_end")
            emitter.line(f"{end} = tl.minimum({start} + {step}, {hi})")
            hi = end
        emitter.axes[axis] = AxisCode(index, None if hi is None else f"{index} < {hi}", end=hi or "")
        emitter.addresses.start = start
        ops = list(op.body.block.ops)
        if target_named(emitter.config.target).asynchronous:
            ops = products_first(ops)
        emitter.wanted = _in_place(op, ops, carried)
        yielded = [emitter.values[v] for v in emitter.body(ops)]
        emitter.wanted = {}
        moves = [(name, new) for name, new in zip(carried, yielded, strict=True) if name != new]
        for n, (name, new) in enumerate(moves):  # a value that an earlier move overwrites is kept first
            if new in {m[0] for m in moves[:n]}:
                kept = emitter.names.fresh(new)
                emitter.line(f"{kept} = {new}")
                moves[n] = (name, kept)
        for name, new in moves:
            emitter.line(f"{name} = {new}")


def _in_place(op: ForOp, ops: Sequence[Operation], carried: list[str]) -> dict[SSAValue, str]:
    """Yielded values that may be computed straight into the variable that carries them.

    That is so when the old value is not needed after the new one is made, and the value is yielded once.
    """
    block, yielded = op.body.block, ops[-1]
    last = list(yielded.operands)
    wanted: dict[SSAValue, str] = {}
    for n, value in enumerate(last):
        owner = value.owner
        if not isinstance(owner, Operation) or owner not in ops or last.count(value) != 1 or block.args[n] in last:
            continue
        made = ops.index(owner)
        if all(use.operation in ops[: made + 1] for use in block.args[n].uses):
            wanted[value] = carried[n]
    return wanted


def _carried_name(emitter: Emitter, op: ForOp, n: int) -> str:
    """The variable that carries a value through the loop: the initial value's own, unless others need that too."""
    initial = op.initial[n]
    if initial.has_one_use():
        return emitter.values[initial]
    name = emitter.names.fresh(op.carried[n].name_hint or "carried")
    emitter.line(f"{name} = {emitter.values[initial]}")
    return name


def _range(emitter: Emitter, op: ForOp, ends: str) -> str:
    """What a loop runs over; its loads, products and the rest may be given to warps of their own."""
    if emitter.config.warp_specialize and any(isinstance(x, DotOp) for x in op.body.block.ops):
        return f"tl.range({ends}, warp_specialize=True)"
    return f"range({ends})"
