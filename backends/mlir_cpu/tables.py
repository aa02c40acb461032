"""Parts of scores and masks that many pairs or tasks have in common are computed once, into scratch.

Tasks that walk one window after another add the same bias to the same pairs: what depends on the row and the key, and
not on what the innermost dimension of the grid counts, is computed again only where another dimension has moved on.
What depends on the row alone, or on the key alone, such as the region of a token in a shifted image, is computed once
for a tile, in lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ...ir.expr import ONE, Const, Expr, Load, Var, free_vars, kind_of, walk
from ...ir.tile import ForOp, KernelOp, MapOp, MaskOp
from .builder import ELEMENT_BYTES, Builder, Val, vec
from .expressions import Limits, Scope
from .frame import Frame
from .loops import one_range

MOST_BYTES = 1 << 17  # of a kernel: tables share the second-level cache with tiles
MOST_ROWS = 256  # of a table that has all rows
CHEAP = 8  # nodes of an expression that take no longer than to read a table


@dataclass(frozen=True)
class Table:
    """An expression of the rows, of the axis of a loop that runs from ``first`` for ``count``, or of both."""

    e: Expr
    axes: frozenset[str]
    axis: str
    first: int
    count: int
    dims: tuple[str, ...]  # of the grid, on which its values depend
    element: str
    width: int  # rows, in whole vectors; 1 where it has none
    whole: bool  # has it all rows that there are, or those of the task's tile?

    def size(self, lanes: int) -> int:
        """Bytes in scratch."""
        along = self.count if self.axis in self.axes else 1
        return -(-along * self.width // lanes) * lanes * ELEMENT_BYTES[self.element]


def tables(kernel: KernelOp, row_width: int, lanes: int, element: str) -> list[Table]:
    """The tables that are worth their room."""
    found: dict[Expr, Table] = {}
    room = MOST_BYTES
    for loop, first, count in _loops(kernel):
        for table in _Parts(kernel, loop, first, count, row_width, lanes, element).tables():
            size = table.size(lanes)
            if table.e not in found and size <= room:
                found[table.e] = table
                room -= size
    return list(found.values())


def _loops(kernel: KernelOp) -> list[tuple[ForOp, int, int]]:
    """The loops that walk one range that is known, and the range; an axis of more than one range has none."""
    loops = [op for op in kernel.body.block.ops if isinstance(op, ForOp)]
    ranges = [one_range(r for x in loops if x.axis == op.axis for r in x.range_list) for op in loops]
    return [(op, r[0], r[1] - r[0]) for op, r in zip(loops, ranges, strict=True) if r]


@dataclass
class _Parts:
    """The largest parts of the scores and masks of a loop that tables can hold."""

    kernel: KernelOp
    loop: ForOp
    first: int
    count: int
    row_width: int
    lanes: int
    element: str

    def tables(self) -> Iterator[Table]:
        names = {d.name for d in self.kernel.grid.data} | set(self.kernel.size_names) | self._pair
        for op in self.loop.body.block.ops:
            if isinstance(op, MapOp):
                yield from self._visit(op.function.data.body, names - set(op.function.data.params))
            elif isinstance(op, MaskOp):
                yield from self._visit(op.condition.data, names)

    @property
    def _pair(self) -> set[str]:
        return {self.kernel.rows.data.name, self.loop.axis.data}

    def _visit(self, e: Expr, names: set[str]) -> Iterator[Table]:
        if not free_vars(e) & self._pair:
            return
        table = self._table(e) if free_vars(e) <= names else None
        if table:
            yield table
            return
        for child in e.children:
            yield from self._visit(child, names)

    def _table(self, e: Expr) -> Table | None:
        nodes = list(walk(e))
        if kind_of(e) == "bool" or (len(nodes) <= CHEAP and not any(isinstance(n, Load) for n in nodes)):
            return None
        if kind_of(e) == "int" and not Limits().fits32(e):
            return None
        rows, grid = self.kernel.rows.data, [d for d in self.kernel.grid.data if d.extent != ONE]
        axes, width = frozenset(free_vars(e) & self._pair), 1
        free, of_tile = free_vars(e), free_vars(rows.base)
        whole = 0 if free & of_tile else self._tiles()
        if rows.name in axes:
            before = max(0, whole - 1) * rows.size
            width = -(-(before + self.row_width) // self.lanes) * self.lanes
            free |= frozenset() if whole else of_tile
        grid = [d for d in grid if not whole or d.name not in of_tile]
        if len(axes) == 2 and (not grid or grid[-1].name in free):
            return None
        dims = tuple(d.name for d in grid if d.name in free)
        element = self.element if kind_of(e) == "float" else "i32"
        return Table(e, axes, self.loop.axis.data, self.first, self.count, dims, element, width, whole > 0)

    def _tiles(self) -> int:
        """How many tiles hold all rows, where that is known and they are few, as in a window."""
        rows = self.kernel.rows.data
        for dim in self.kernel.grid.data:
            match dim.extent:
                case Const(int(tiles)) if rows.base == Var(dim.name) * rows.size and tiles * rows.size <= MOST_ROWS:
                    return tiles
        return 0


class Filled:
    """Tables in scratch, and for which task each was computed last."""

    def __init__(self, b: Builder, found: Sequence[Table], rooms: Sequence[Val]):
        self.found = [(t, room, b.alloca(ELEMENT_BYTES["i64"], "tag")) for t, room in zip(found, rooms, strict=True)]
        for _, _, tag in self.found:
            b.store(b.integer(-1), tag)

    def fill(self, f: Frame, extents: Mapping[str, Val]) -> None:
        """Compute the tables that another task than the one of ``f`` left behind."""
        b = f.b
        self.start = f.spans[f.rows].start
        for table, room, tag in self.found:
            number = b.integer(0)
            for dim in table.dims:
                number = b.add(b.mul(number, extents[dim]), f.names[dim])
            with b.when(b.cmpi("ne", b.load(tag, "i64"), number)):
                b.store(number, tag)
                if f.rows not in table.axes:
                    with b.loop(0, table.count, f.lanes, hint=table.axis) as row:
                        at = {table.axis: self._lanes(f, b.add(row.iv, table.first))}
                        self._put(f, table, at, None, b.at(room, row.iv, table.element))
                    continue
                count = table.count if table.axis in table.axes else 1
                with b.loop(0, count, hint=table.axis) as row, b.loop(0, table.width, f.lanes, hint="lane") as lane:
                    # lanes beyond the last row, too: with other tasks they may be live
                    first = b.add(self._origin(f, table), lane.iv)
                    at = {table.axis: b.add(row.iv, table.first), f.rows: self._lanes(f, first)}
                    self._put(f, table, at, first, self._at(f, table, room, row.iv, lane.iv))

    def _origin(self, f: Frame, table: Table) -> Val:
        """The first row of a table."""
        return f.b.integer(0) if table.whole else self.start

    def _lanes(self, f: Frame, first: Val) -> Val:
        """The numbers from ``first`` on."""
        b = f.b
        first = b.broadcast(b.cast("trunci", first, "i32"), f.lanes)
        return b.binary("addi", first, b.iota(first.type))

    def _put(self, f: Frame, table: Table, at: dict[str, Val], first: Val | None, pointer: Val) -> None:
        x, scope = f.expressions, Scope(f.scalar_scope(at).names, first=(lambda: first) if first else None)
        if table.element == "i32":
            x.limits.fits32(table.e)
            value = x.as_int(x.emit(table.e, scope), 32)
        else:
            value = x.vector(table.e, scope)
        f.b.store(f.b.broadcast(value, f.lanes), pointer)

    def known(self, f: Frame, axis: str | None, row: Val | int, lane: Val) -> dict[Expr, Callable[[], Val]]:
        """How to read the tables for a vector of pairs of tile row ``row``."""
        return {
            table.e: partial(self._read, f, table, room, row, lane)
            for table, room, _ in self.found
            if axis == table.axis or table.axis not in table.axes
        }

    def _read(self, f: Frame, table: Table, room: Val, row: Val | int, lane: Val) -> Val:
        b = f.b
        key = b.integer(0)
        if table.axis in table.axes:
            key = b.sub(b.add(f.spans[table.axis].start, row), table.first)
        if f.rows in table.axes:
            lane = b.sub(b.add(f.spans[f.rows].start, lane), self._origin(f, table))
            return b.load(self._at(f, table, room, key, lane), vec(f.lanes, table.element))
        value = b.load(b.at(room, key, table.element), table.element)
        return b.cast("extsi", value, "i64") if table.element == "i32" else value

    def _at(self, f: Frame, table: Table, room: Val, row: Val, lane: Val) -> Val:
        return f.b.at(f.b.at(room, f.b.mul(row, table.width), table.element), lane, table.element)
