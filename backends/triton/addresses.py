"""Addresses of tiles: a base that a task computes once, and the offsets of a tile's elements.

A load in a loop reads tiles that lie at equal distances where its index is linear in the loop's axis.  The pointers of
its first tile are computed before the loop, and each step adds one number to them::

    k_at = k_base + (tl.arange(0, 64).to(tl.int64) * k_s2)[:, None] + (d * k_s3)[None, :]
    for start in range(lo, hi, 64):
        key = tl.load(k_at + tl.cast(start, tl.int64) * k_s2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from xdsl.ir import Operation, SSAValue

from ...ir import poly
from ...ir.expr import Const, Expr, Var, free_vars, loads
from ...ir.tile import BandAddOp, BandDotOp, ForOp, LoadOp, StoreOp, tile_type
from .layout import AxisCode, padded, padded_shape
from .scalars import Text, expanded

if TYPE_CHECKING:
    from .emit import Emitter

Linear = tuple[list[Expr], list[Expr]]  # of each index: the part that grows with the loop's axis, and the rest


class Addresses:
    """Prints addresses in one kernel."""

    def __init__(self, emitter: Emitter):
        self.emitter = emitter
        self.bases: dict[tuple[str, str], str] = {}
        self.first: dict[str, str] = {}  # code of pointers -> their name
        self.walks: dict[LoadOp, str] = {}  # load of the loop at hand -> its first tile's pointers
        self.start = ""  # the first key of the step at hand

    # ---- the base -------------------------------------------------------------------------------------

    def prepare(self, op: LoadOp | StoreOp | BandDotOp | BandAddOp, level: int) -> None:
        """Name the base of an access if it is known at ``level`` of the kernel's steps, and not before."""
        linear = self.linear(op)
        index = [rest for _, rest in zip(*linear, strict=True)] if linear else list(op.index.data)
        fixed = set().union(*(free_vars(e) for e in index if self.is_fixed(e)))
        if self.emitter.steps.level(fixed) == level:
            self.base(op.memory, index)

    def base(self, memory: SSAValue, index: Sequence[Expr]) -> str:
        """The pointer to which a tile's own offsets are added; named once, before the loops."""
        emitter = self.emitter
        name = emitter.memory[memory]
        terms = []
        for n, e in enumerate(index):
            if self.is_fixed(e):
                x = scaled(emitter.scalar(e), f"{name}_s{n}")
                if x.code != "0":
                    terms.append(x.at_least(10))
        key = (name, " + ".join(terms))
        if not terms:
            return name
        if key not in self.bases:
            self.bases[key] = emitter.names.fresh(f"{name}_base")
            emitter.line(f"{self.bases[key]} = {name} + {key[1]}")
        return self.bases[key]

    def is_fixed(self, e: Expr) -> bool:
        """Does ``e`` have one value for all elements of all tiles of a task (and step)?"""
        return not free_vars(e) & self.emitter.order.keys() and not loads(e)

    # ---- one tile -------------------------------------------------------------------------------------

    def of(self, memory: SSAValue, index: Sequence[Expr], shape: Mapping[str, int]) -> str:
        """Pointers of a tile's elements."""
        return " + ".join([self.base(memory, index), *self.offsets(memory, index, shape)])

    def of_load(self, op: LoadOp, shape: Mapping[str, int]) -> str:
        """The same for a load, which may be one of a loop."""
        linear, loop = self.linear(op), op.parent_op()
        if op not in self.walks or linear is None or not isinstance(loop, ForOp):
            return self.of(op.memory, op.index.data, shape)
        start = Text(f"tl.cast({self.start}, tl.int64)", wide=True)
        scalars = self.emitter.printer((), "tl.float32", {loop.axis.data: start})
        name = self.emitter.memory[op.memory]
        ways = [scaled(scalars.text(e), f"{name}_s{n}") for n, e in enumerate(linear[0]) if e != Const(0)]
        return " + ".join([self.walks[op], *(x.at_least(10) for x in ways)])

    def offsets(self, memory: SSAValue, index: Sequence[Expr], shape: Mapping[str, int]) -> list[str]:
        """Terms of the distance of a tile's elements from their base."""
        axes = list(shape)
        scalars = self.emitter.printer(axes, "tl.float32")
        name = self.emitter.memory[memory]
        groups: dict[tuple[str, ...], list[str]] = {}
        for n, e in enumerate(index):
            if not self.is_fixed(e):
                x = scaled(scalars.text(e), f"{name}_s{n}")
                groups.setdefault(x.axes, []).append(x.at_least(10))
        terms = []
        for own, codes in groups.items():
            x = Text(" + ".join(codes), 10 if len(codes) == 1 else 9, own)
            terms.append(expanded(x, axes).at_least(9))
        if len({a for own in groups for a in own}) < len(axes):  # an axis that the address does not use
            terms.append(f"tl.zeros({padded_shape(shape)}, tl.int64)")
        return terms

    # ---- the tiles of a loop --------------------------------------------------------------------------

    def linear(self, op: Operation) -> Linear | None:
        """The index of a load in a loop as multiples of the loop's axis and the rest; None where it is not linear."""
        loop = op.parent_op()
        if (
            not isinstance(op, LoadOp)
            or not isinstance(loop, ForOp)
            or loop.axis.data not in tile_type(op.result).shape
        ):
            return None
        axis = Var(loop.axis.data)
        moving: list[Expr] = []
        rest: list[Expr] = []
        for e in op.index.data:
            if axis.name not in free_vars(e):
                moving.append(Const(0))
                rest.append(e)
                continue
            parts = poly.split_linear(poly.of_expr(e), axis)
            found = [poly.to_expr(p) for p in parts] if parts else []
            if not found or not all(self.is_fixed(x) for x in found):
                return None
            moving.append(found[0] * axis)
            rest.append(found[1])
        return moving, rest

    def enter(self, loop: ForOp) -> None:
        """Before a loop: the pointers of the first tiles, at 0, of its loads."""
        emitter, axis = self.emitter, loop.axis.data
        saved = emitter.axes.get(axis)
        emitter.axes[axis] = AxisCode(f"tl.arange(0, {padded(loop.step.data)})", None)
        self.walks = {}
        always: list[str] = []
        pointed: list[str] = []  # for tensors that descriptors cannot say
        for op in loop.body.block.ops:
            linear = self.linear(op) if isinstance(op, LoadOp) else None
            if not isinstance(op, LoadOp) or linear is None:
                continue
            descriptor = emitter.descriptors.enter(loop, op, linear)
            rest, name = linear[1], emitter.memory[op.memory]
            tile = [
                m if m != Const(0) else r if not self.is_fixed(r) else Const(0) for m, r in zip(*linear, strict=True)
            ]
            code = " + ".join([self.base(op.memory, rest), *self.offsets(op.memory, tile, emitter.shape(op.result))])
            if code not in self.first:
                self.first[code] = emitter.names.fresh(f"{name}_at")
                (always if descriptor is None else pointed).append(f"{self.first[code]} = {code}")
            self.walks[op] = self.first[code]
        for line in always:
            emitter.line(line)
        emitter.descriptors.either(emitter.descriptors.take(), pointed)
        if saved is None:
            del emitter.axes[axis]
        else:
            emitter.axes[axis] = saved


def scaled(x: Text, stride: str) -> Text:
    """A 64-bit offset: index times stride."""
    if x.code == "0":
        return x
    if x.code.isdigit():
        return Text(f"tl.cast({x.code}, tl.int64) * {stride}", 10)
    wide = x if x.wide else x.method("to(tl.int64)")
    return Text(f"{wide.code} * {stride}", 10, x.axes)
