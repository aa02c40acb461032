"""Rows of features in parts: matrix units take multiples of 16, Triton's tiles powers of two.

A tile of rows that are 80 wide would hold 128, and products would spend more than a third on zeros.  Such rows are two
tiles instead, of 64 and of 16 features, wherever the kernel has one::

    dot = tl.dot(query, tl.trans(key))
    dot = tl.dot(query64, tl.trans(key64), acc=dot)      features from 64 on
    ...
    acc = tl.dot(p, value, acc=scaled)
    acc64 = tl.dot(p, value64, acc=scaled64)

So 96 is 64 and 32, and 192 is 128 and 64.  Rows of 112 stay one tile of 128: their parts would hold as much.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from ...ir.expr import Expr, Lambda, Var, parse_lambda, substitute
from ...ir.tile import (
    BandAddOp,
    BandDotOp,
    DotOp,
    ForOp,
    FullOp,
    KernelOp,
    LoadOp,
    MapOp,
    MaskOp,
    ReduceOp,
    StoreOp,
    TileType,
    YieldOp,
    tile_type,
)
from .layout import axis_sizes, padded

Place = tuple[tuple[str, int], ...]  # of a part: for each axis that is divided, the first element
Parts = dict[Place, SSAValue]

_TOGETHER = {"sum": "lambda a, b: a + b", "max": "lambda a, b: max(a, b)"}


def parts(size: int) -> tuple[int, ...]:
    """The sizes of one or two tiles that hold ``size`` features with the fewest dead ones."""
    whole = padded(size)
    first = whole // 2
    if size <= first or first < 32 or first + padded(size - first) == whole:
        return (size,)
    return first, size - first


def features(kernel: KernelOp) -> list[str]:
    """For the notation: which features the axes of a divided kernel are."""
    sizes = axis_sizes(kernel)
    divided = {_named(a, n): (n, sizes[_named(a, n)]) for a, n in sorted(sizes.items()) if _named(a, n) in sizes}
    return [f"{a:<8} {n} features from {first} on; x{first} holds those of x" for a, (first, n) in divided.items()]


def apart(a: StoreOp, b: StoreOp) -> bool:
    """Do two stores write different parts of the same rows?"""
    return bool(tile_type(a.value).shape.keys() ^ tile_type(b.value).shape.keys())


def in_parts(kernel: KernelOp) -> KernelOp:
    """The kernel with its rows of features divided; itself where none are."""
    bands = [op for op in kernel.body.walk() if isinstance(op, BandDotOp | BandAddOp)]
    kept = {a for op in bands for a in tile_type(op.lhs).shape}
    kept |= {a for op in bands if isinstance(op, BandDotOp) for a in tile_type(op.result).shape}
    divided = {a: parts(n) for a, n in sorted(axis_sizes(kernel).items()) if a not in kept and len(parts(n)) > 1}
    return _Division(divided).kernel(kernel) if divided else kernel


class _Division:
    """Builds a kernel anew, each op once for each part of what it makes."""

    def __init__(self, divided: Mapping[str, Sequence[int]]):
        self.divided = {a: {0: first, first: rest} for a, (first, rest) in divided.items()}  # first element -> size
        self.values: dict[SSAValue, Parts] = {}

    def kernel(self, old: KernelOp) -> KernelOp:
        new = KernelOp(
            old.sym_name.data,
            old.names,
            [a.type for a in old.args],  # type: ignore[misc]
            old.outputs.data,
            old.grid.data,
            old.rows.data,
            dict(old.attributes),
            old.sequential.data,
        )
        self.values = {a: {(): b} for a, b in zip(old.args, new.args, strict=True)}
        self.block(old.body.block, new.body.block)
        return new

    def block(self, old: Block, new: Block) -> None:
        for op in old.ops:
            for made in self.op(op):
                new.add_op(made)

    # ---- parts ----------------------------------------------------------------------------------------

    def places(self, type: TileType) -> list[Place]:
        axes = [a for a in type.shape if a in self.divided]
        return list(itertools.product(*([(a, first) for first in self.divided[a]] for a in axes)))

    def type(self, type: TileType, place: Place) -> TileType:
        at = dict(place)
        shape = {_named(a, at.get(a, 0)): self.divided[a][at[a]] if a in at else n for a, n in type.shape.items()}
        return TileType.of(shape, type.element)

    def at(self, value: SSAValue, place: Place) -> SSAValue:
        """The part of a value that belongs to a place, which may say more than the value has axes."""
        shape = tile_type(value).shape
        return self.values[value][
            tuple(sorted((x for x in place if x[0] in shape), key=lambda x: [*shape].index(x[0])))
        ]

    def memory(self, op: LoadOp | StoreOp | BandDotOp | BandAddOp) -> SSAValue:
        return self.values[op.memory][()]

    def made(self, old: Operation, new: Operation, value: SSAValue, place: Place) -> Operation:
        """Note that ``new`` makes a part of ``value``."""
        new.attributes.update(old.attributes)
        (result,) = new.results
        result.name_hint = _hint(value, place)
        self.values.setdefault(value, {})[place] = result
        return new

    # ---- one rule an op -------------------------------------------------------------------------------

    def op(self, op: Operation) -> Iterator[Operation]:
        match op:
            case StoreOp():
                for place in self.places(tile_type(op.value)):
                    index = [_moved(e, place) for e in op.index.data]
                    stored = StoreOp(self.at(op.value, place), self.memory(op), index, add=op.add is not None)
                    stored.attributes.update(op.attributes)
                    yield stored
            case BandAddOp():
                added = BandAddOp(self.at(op.pairs, ()), self.at(op.lhs, ()), self.memory(op), op.index.data)
                added.attributes.update(op.attributes)
                yield added
            case ForOp():
                yield self.loop(op)
            case YieldOp():
                yield YieldOp([x for v in op.values for x in self.values[v].values()])
            case DotOp():
                yield from self.dot(op)
            case ReduceOp() if op.axis in self.divided:
                yield from self.reduce(op)
            case _:
                (result,) = op.results
                for place in self.places(tile_type(result)):
                    yield self.made(op, self.same(op, place), result, place)

    def same(self, op: Operation, place: Place) -> Operation:
        """The op for one part of its result."""
        match op:
            case FullOp():
                return FullOp(op.value.data.body, self.type(tile_type(op.result), place))
            case LoadOp():
                index = [_moved(e, place) for e in op.index.data]
                return LoadOp(self.memory(op), index, self.type(tile_type(op.result), place))
            case MapOp():
                function = Lambda(op.function.data.params, _moved(op.function.data.body, place))
                return MapOp(function, [self.at(v, place) for v in op.inputs], self.type(tile_type(op.result), place))
            case MaskOp():
                return MaskOp(self.at(op.input, place), op.condition.data)
            case ReduceOp():
                return ReduceOp(op.kind.data, self.at(op.input, place), self.type(tile_type(op.result), place))
            case BandDotOp():
                acc = None if op.acc is None else self.at(op.acc, ())
                return BandDotOp(self.at(op.lhs, ()), self.memory(op), op.index.data, tile_type(op.result), acc)
        raise TypeError(f"no rule for {op.name}")

    def dot(self, op: DotOp) -> Iterator[Operation]:
        """Products over parts are added up, one after the other."""
        along: list[Place] = [((op.contracted, first),) for first in self.divided.get(op.contracted, {})]
        for place in self.places(tile_type(op.result)):
            acc = None if op.acc is None else self.at(op.acc, place)
            for part in along or [()]:
                where = (*place, *part)
                made = DotOp(
                    self.at(op.lhs, where), self.at(op.rhs, where), self.type(tile_type(op.result), place), acc
                )
                yield self.made(op, made, op.result, place)
                acc = made.result

    def reduce(self, op: ReduceOp) -> Iterator[Operation]:
        for place in self.places(tile_type(op.result)):
            type, total = self.type(tile_type(op.result), place), None
            for first in self.divided[op.axis]:
                made: Operation = ReduceOp(op.kind.data, self.at(op.input, (*place, (op.axis, first))), type)
                yield self.made(op, made, op.result, place)
                if total is not None:
                    both = [total, made.results[0]]
                    made = MapOp(parse_lambda(_TOGETHER[op.kind.data]), both, type)
                    yield self.made(op, made, op.result, place)
                total = made.results[0]

    def loop(self, op: ForOp) -> Operation:
        places = [(n, place) for n, v in enumerate(op.initial) for place in self.places(tile_type(v))]
        initial = [self.at(op.initial[n], place) for n, place in places]
        block = Block(arg_types=[v.type for v in initial])
        for (n, place), arg in zip(places, block.args, strict=True):
            arg.name_hint = _hint(op.carried[n], place)
            self.values.setdefault(op.carried[n], {})[place] = arg
        self.block(op.body.block, block)
        attributes: dict[str, Attribute] = dict(op.attributes)
        loop = ForOp(op.axis.data, op.kind.data, op.step.data, op.range_list, initial, Region(block), attributes)
        for (n, place), result in zip(places, loop.results, strict=True):
            result.name_hint = _hint(op.results_[n], place)
            self.values.setdefault(op.results_[n], {})[place] = result
        return loop


def _named(axis: str, first: int) -> str:
    return f"{axis}{first}" if first else axis


def _hint(value: SSAValue, place: Sequence[tuple[str, int]]) -> str | None:
    return _named(value.name_hint, max((first for _, first in place), default=0)) if value.name_hint else None


def _moved(e: Expr, place: Place) -> Expr:
    """An expression over an axis, over that of a part."""
    return substitute(e, {a: Var(_named(a, first)) + first for a, first in place if first})
