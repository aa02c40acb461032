"""Products of a tile with a band of rows, each pair with the one that its distance says: ``q[i] . r[i - j]``.

The rows that a tile of pairs reads are as many as it is wide and high together.  All are multiplied at once, and every
pair then takes the product of its distance::

    band = tl.load(r + distances * r_s0 + d * r_s1)
    x = tl.gather(tl.dot(q, tl.trans(band)), i - j + 63, 1)

Backwards, pairs are put under their distances first; products sum them up, or bring them to the rows of the band.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xdsl.ir import Attribute

from ...ir.distance import DISTANCE, by_distance
from ...ir.dtypes import accumulator, itemsize, name_of
from ...ir.expr import ZERO, Expr, free_vars, substitute
from ...ir.tile import BandAddOp, BandDotOp, ForOp, memory_type, tile_type
from .collisions import injective
from .errors import UnsupportedKernelError
from .layout import AxisCode, dtype, padded
from .scalars import Text

if TYPE_CHECKING:
    from .emit import Emitter


class Band:
    """The band of one op in the kernel; along it, ``p`` is row less column of the tile, from ``1 - columns`` on."""

    def __init__(self, emitter: Emitter, op: BandDotOp | BandAddOp):
        self.e, self.op = emitter, op
        pairs = op.pairs if isinstance(op, BandAddOp) else op.lhs if _sums(op) else op.result
        self.pairs, self.shape = pairs, emitter.shape(pairs)
        loop = op.parent_op()
        if not isinstance(loop, ForOp) or list(self.shape) != [emitter.kernel.rows.data.name, loop.axis.data]:
            raise UnsupportedKernelError(f"{op}: pairs are of the kernel's rows and of a loop's axis")
        self.rows, self.columns = (padded(n) for n in self.shape.values())
        self.size = max(16, 1 << (self.rows + self.columns - 2).bit_length())
        axes = tile_type(op.lhs).shape | ({} if isinstance(op, BandAddOp) else tile_type(op.result).shape)
        self.feature = next(a for a in axes if a not in self.shape)
        self.width = padded(axes[self.feature])
        index = by_distance(op.index.data, *self.shape)
        if index is None:
            raise UnsupportedKernelError(f"{op}: which row a pair reads must depend on its distance")
        self.index: Sequence[Expr] = index
        self.name = emitter.memory[op.memory]

    @contextmanager
    def distances(self) -> Iterator[tuple[str, str]]:
        """Pointers of the band's elements and which of them there are, while an axis stands for its distances."""
        e = self.e
        distance = e.names.fresh("distance")
        base = e.scalar(e.kernel.rows.data.base)
        less = f"{base.at_least(9)} - {e.addresses.start} - {self.columns - 1}"
        e.line(f"{distance} = {less} + tl.arange(0, {self.size})")
        e.order[DISTANCE] = -1
        e.axes[DISTANCE] = AxisCode(distance, None)
        shape = {DISTANCE: self.size, self.feature: self.width}
        scalars = e.printer(list(shape), "tl.float32")
        guards: list[Text] = []
        for n, x in enumerate(self.index):
            if DISTANCE in free_vars(x):
                text = scalars.text(x)
                guards.append(Text(f"({text.at_least(5)} >= 0)", axes=text.axes))
                guards += [g for g in e.inside(self.name, n, x, text) if ">=" not in g.code]
        at = e.names.fresh(f"{self.name}_band")
        e.line(f"{at} = {e.addresses.of(self.op.memory, self.index, shape)}")
        yield at, e.live(list(shape), *guards)
        del e.axes[DISTANCE], e.order[DISTANCE]

    def load(self) -> str:
        """The rows of the band; zeros where there are none."""
        band = self.e.names.fresh("rows")
        with self.distances() as (at, live):
            self.e.line(f"{band} = tl.load({at}{f', mask={live}, other=0.0' if live else ''})")
        return band

    def places(self) -> str:
        """Where in the band each pair is."""
        r, c = f"tl.arange(0, {self.rows})[:, None]", f"tl.arange(0, {self.columns})[None, :]"
        return f"{r} - {c} + {self.columns - 1}"

    def turned(self) -> str:
        """The pairs under their distances, 0 where the tile has none."""
        e = self.e
        live = e.live(list(self.shape))
        value = e.values[self.pairs]
        source = f"tl.where({live}, {value}, 0.0)" if live else value
        column, turned = e.names.fresh("column"), e.names.fresh("turned")
        r, p = f"tl.arange(0, {self.rows})[:, None]", f"tl.arange(0, {self.size})[None, :]"
        e.line(f"{column} = {r} + {self.columns - 1} - {p}")
        gathered = f"tl.gather({source}, {column} & {self.columns - 1}, 1)"
        e.line(f"{turned} = tl.where(({column} >= 0) & ({column} < {self.columns}), {gathered}, 0.0)")
        return turned


def _sums(op: BandDotOp) -> bool:
    """Are pairs what is multiplied, and not the result?"""
    loop = op.parent_op()
    return isinstance(loop, ForOp) and loop.axis.data in tile_type(op.lhs).shape and op.contracted == loop.axis.data


def emit_band_dot(emitter: Emitter, op: BandDotOp) -> None:
    """Print a product with a band."""
    band = Band(emitter, op)
    rows = band.load()
    element, out = memory_type(op.memory).element, tile_type(op.result).element
    if _sums(op):
        lhs = band.turned(), tile_type(op.lhs).element
        code = _dot(lhs, (rows, element), out, (band.rows, band.size, band.width), emitter)
    else:
        left = emitter.values[op.lhs], tile_type(op.lhs).element
        if next(iter(emitter.shape(op.lhs))) == next(iter(band.shape)):
            sizes, axis = (band.rows, band.width, band.size), 1
            code = _dot(left, (f"tl.trans({rows})", element), out, sizes, emitter)
        else:
            sizes, axis = (band.size, band.width, band.columns), 0
            code = _dot((rows, element), (f"tl.trans({left[0]})", left[1]), out, sizes, emitter)
        all = emitter.names.fresh("products")
        emitter.line(f"{all} = {code}")
        code = f"tl.gather({all}, {band.places()}, {axis})"
    plus = f"{emitter.values[op.acc]} + " if op.acc is not None else ""
    emitter.define(op.result, plus + code)


def emit_band_add(emitter: Emitter, op: BandAddOp) -> None:
    """Print what adds to the rows of a band; tiles of one task run in order, and others do not write there."""
    band = Band(emitter, op)
    turned = f"tl.trans({band.turned()})"
    element = memory_type(op.memory).element
    wide = accumulator(element)
    left = emitter.values[op.lhs], tile_type(op.lhs).element
    sizes = band.size, band.rows, band.width
    sums, old = emitter.names.fresh("sums"), emitter.names.fresh(f"{band.name}_old")
    emitter.line(f"{sums} = {_dot((turned, tile_type(op.pairs).element), left, wide, sizes, emitter)}")
    with band.distances() as (at, live):
        if not injective(band.index, [DISTANCE]):
            sums, live = _met(band, sums, live, wide)
        mask = f", mask={live}" if live else ""
        emitter.line(f"{old} = tl.load({at}{f'{mask}, other=0.0' if mask else ''})")
        narrow = "" if name_of(wide) == name_of(element) else f".to({dtype(element)})"
        emitter.line(f"tl.store({at}, ({old} + {sums}){narrow}{mask})")
    emitter.barrier()


def _met(band: Band, sums: str, live: str, of: Attribute) -> tuple[str, str]:
    """The sums of all distances with one address, as behind a ``clamp``; live for the first of them alone.

    Which distances these are is a matrix of zeros and ones, and so a product adds them up, always in the same order.
    """
    e, ordinals = band.e, f"tl.arange(0, {band.size})"
    if sum(DISTANCE in free_vars(x) for x in band.index) > 1:
        raise UnsupportedKernelError(f"{band.op}: distances that meet must do so in one index")
    at, same, met = (e.names.fresh(x) for x in ("offsets", "same", "met"))
    of_rows = [substitute(x, {band.feature: ZERO}) for x in band.index]
    e.line(f"{at} = {' + '.join(e.addresses.offsets(band.op.memory, of_rows, {DISTANCE: band.size}))}")
    e.line(f"{same} = {at}[:, None] == {at}[None, :]")
    alike = f"tl.where({same}, 1.0, 0.0).to({dtype(of)})", of
    there = f"tl.where({live}, {sums}, 0.0)" if live else sums
    e.line(f"{met} = {_dot(alike, (there, of), of, (band.size, band.size, band.width), e)}")
    earlier = f"{same} & ({ordinals}[None, :] < {ordinals}[:, None])"
    first = f"(tl.sum(tl.where({earlier}, 1, 0), 1) == 0)[:, None]"
    return met, f"{live} & {first}" if live else first


def _dot(
    a: tuple[str, Attribute], b: tuple[str, Attribute], out: Attribute, sizes: tuple[int, int, int], emitter: Emitter
) -> str:
    """The product of two matrices, of so many rows, terms and columns."""
    wide = max((a[1], b[1]), key=itemsize)
    left, right = (x if of == wide else f"{x}.to({dtype(wide)})" for x, of in (a, b))
    if min(sizes) < 16:  # as a sum: matrix units take no less
        names = [emitter.names.fresh("factor") for _ in range(2)]
        for name, code in zip(names, (left, right), strict=True):
            emitter.line(f"{name} = {code}")
        return f"tl.sum({names[0]}[:, :, None].to({dtype(out)}) * {names[1]}[None, :, :].to({dtype(out)}), 1)"
    options = ['input_precision="ieee"'] if name_of(wide) in ("f32", "f64") else []
    options += ["out_dtype=tl.float64"] if name_of(out) == "f64" else []
    return f"tl.dot({', '.join([left, right, *options])})"
