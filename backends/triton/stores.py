"""Stores: plain, and those that add.

No two tasks add to the same element, and one task's steps run in order.  So where the elements of a tile have
addresses of their own, adding is a load, a sum and a store.  An axis that the address does not use is summed first.
What is left are tiles whose elements may meet in one address, such as a table of relative biases.  Atomics would add
them in no certain order.  Where the address depends on the distance of row and key, diagonals are summed first
(:mod:`.diagonals`), and the sums are stored.  Where elements of different rows never meet, such as products of a query
with a table, columns take turns, and rows where those of different columns never do.  Else each address that occurs
takes its turn::

    at = ...                                          offsets of the elements
    turn = tl.min(at)
    while turn < END:                                 as often as there are different ones
        old = tl.load(base + turn)
        tl.store(base + turn, old + tl.sum(tl.where(at == turn, ds, 0.0)))
        turn = tl.min(tl.where(at > turn, at, END))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from xdsl.ir import Attribute

from ...ir.dtypes import accumulator, name_of
from ...ir.expr import Expr, Var, free_vars, loads, substitute
from ...ir.tile import ForOp, StoreOp, memory_type, tile_type
from .collisions import collides, injective, unused_axes
from .diagonals import DISTANCE, by_distance, sums
from .layout import dtype, padded
from .scalars import Text, expanded

if TYPE_CHECKING:
    from .emit import Emitter

_END = 2**62  # beyond every offset


def emit_store(emitter: Emitter, op: StoreOp) -> None:
    """Print a store."""
    element = memory_type(op.memory).element
    if op.add is None or op in emitter.steps.waiting:
        shape = emitter.shape(op.value)
        address, live = emitter.addresses.of(op.memory, op.index.data, shape), emitter.live(list(shape))
        value = _converted(emitter.values[op.value], tile_type(op.value).element, element)
        emitter.line(f"tl.store({address}, {value}{_mask(live)})")
        return
    value, shape = _summed(emitter, op)
    if collides(op):
        index = by_distance(op, shape, emitter.kernel.rows.data.name)
        if index is None:
            own = _owner(op.index.data, shape)
            if own is None:
                _by_turns(emitter, op, op.index.data, value, shape)
            else:
                _by_columns(emitter, op, value, shape, own)
            return
        for total, diagonals in sums(emitter, value, shape, emitter.memory[op.memory]):
            if not injective(index, diagonals):
                _by_turns(emitter, op, index, total, diagonals)
                continue
            at = emitter.names.fresh(f"{emitter.memory[op.memory]}_at")
            emitter.line(f"{at} = {emitter.addresses.of(op.memory, index, diagonals)}")
            _add(emitter, op, at, total, _mask(_live(emitter, op, index, diagonals)))
            emitter.barrier()
        return
    address = emitter.addresses.of(op.memory, op.index.data, shape)
    live = _live(emitter, op, op.index.data, shape)
    name = emitter.memory[op.memory]
    at = emitter.names.fresh(f"{name}_at")
    emitter.line(f"{at} = {address}")
    _add(emitter, op, at, value, _mask(live))
    loop = op.parent_op()
    if isinstance(loop, ForOp) and loop.axis.data not in shape:
        emitter.barrier()


def _add(emitter: Emitter, op: StoreOp, at: str, value: str, mask: str) -> None:
    """Add to what is at the pointers ``at``."""
    of, element = tile_type(op.value).element, memory_type(op.memory).element
    wide = accumulator(element)
    old = emitter.names.fresh(f"{emitter.memory[op.memory]}_old")
    emitter.line(f"{old} = tl.load({at}{mask}{', other=0.0' if mask else ''})")
    total = f"{_converted(old, element, wide)} + {_converted(value, of, wide)}"
    emitter.line(f"tl.store({at}, {total if element == wide else _converted(f'({total})', wide, element)}{mask})")


def _owner(index: Sequence[Expr], shape: Mapping[str, int]) -> str | None:
    """An axis along which elements never meet, and the other axis is that of columns to add one after the other."""
    for own in shape if len(shape) == 2 else ():
        read = [x for e in index for x in loads(e)]
        if injective(index, [own]) and all(own in free_vars(x) or not free_vars(x) & shape.keys() for x in read):
            return own
    return None


def _by_columns(emitter: Emitter, op: StoreOp, value: str, shape: Mapping[str, int], own: str) -> None:
    """Add one column of the tile after the other; the elements of one, along the axis ``own``, never meet."""
    name, axes = emitter.memory[op.memory], list(shape)
    other = next(a for a in axes if a != own)
    column, part, at = (emitter.names.fresh(f"{name}_{x}") for x in ("column", "part", "at"))
    loop, rows = op.parent_op(), emitter.kernel.rows.data
    if isinstance(loop, ForOp) and loop.axis.data == other:
        first = emitter.addresses.start
    else:
        first = emitter.scalar(rows.base).at_least(9) if other == rows.name else "0"
    here = expanded(Text(f"(tl.arange(0, {padded(shape[other])}) == {column})", axes=(other,)), axes).code
    live = emitter.live(axes)
    emitter.line(f"for {column} in range(0, {shape[other]}):")
    with emitter.source.indented():
        chosen = f"{live} & {here}" if live else here
        emitter.line(f"{part} = tl.sum(tl.where({chosen}, {value}, 0.0), {axes.index(other)})")
        emitter.scalars[column] = Text(f"({first} + {column})")
        index = [substitute(e, {other: Var(column)}) for e in op.index.data]
        left = {own: shape[own]}
        emitter.line(f"{at} = {emitter.addresses.of(op.memory, index, left)}")
        known = emitter.axes[own].live
        guards = [f"({known})"] if known else []
        scalars = emitter.printer([own], "tl.float32")
        for n, e in enumerate(index):
            if e != Var(own) and free_vars(e) & {own, column}:
                guards += [x.code for x in emitter.inside(name, n, e, scalars.text(e))]
        _add(emitter, op, at, part, _mask(" & ".join([*guards, f"({part} != 0.0)"])))
        emitter.barrier()
        del emitter.scalars[column]


def _by_turns(emitter: Emitter, op: StoreOp, index: Sequence[Expr], value: str, shape: Mapping[str, int]) -> None:
    """Add one address after the other."""
    name = emitter.memory[op.memory]
    base = emitter.addresses.base(op.memory, index)
    offsets = " + ".join(emitter.addresses.offsets(op.memory, index, shape))
    live = _live(emitter, op, index, shape)
    at, turn, part = (emitter.names.fresh(f"{name}_{x}") for x in ("at", "turn", "part"))
    some = f"{live} & ({value} != 0.0)" if live else f"{value} != 0.0"  # adding nothing needs no turn
    emitter.line(f"{at} = tl.where({some}, {offsets}, {_END})")
    emitter.line(f"{turn} = tl.min({at})")
    emitter.line(f"while {turn} < {_END}:  # each address of the tile once, in order")
    with emitter.source.indented():
        emitter.line(f"{part} = tl.sum(tl.where({at} == {turn}, {value}, 0.0))")
        _add(emitter, op, f"{base} + {turn}", part, "")
        emitter.line(f"{turn} = tl.min(tl.where({at} > {turn}, {at}, {_END}))")
    emitter.barrier()


def _live(emitter: Emitter, op: StoreOp, index: Sequence[Expr], shape: Mapping[str, int]) -> str:
    """The condition that an element is added: pairs that a mask excludes may point outside the memory."""
    name, axes = emitter.memory[op.memory], list(shape)
    scalars = emitter.printer(axes, "tl.float32")
    guards = []
    for n, e in enumerate(index):
        used = free_vars(e) & set(axes)
        if len(used) > 1 or DISTANCE in used or loads(e):
            guards += emitter.inside(name, n, e, scalars.text(e))
    return emitter.live(axes, *guards)


def _summed(emitter: Emitter, op: StoreOp) -> tuple[str, Mapping[str, int]]:
    """The value summed over the axes that the address does not use, and the shape that is left."""
    shape = emitter.shape(op.value)
    value = emitter.values[op.value]
    for axis in unused_axes(op):
        emitter.fill_dead(op.value, axis, 0.0)
    for axis in unused_axes(op):
        value = f"tl.sum({value}, {list(shape).index(axis)})"
        del shape[axis]
    return value, shape


def _converted(code: str, of: Attribute, to: Attribute) -> str:
    return code if name_of(of) == name_of(to) else f"{code}.to({dtype(to)})"


def _mask(live: str) -> str:
    return f", mask={live}" if live else ""
