"""What is in scope while a kernel's blocks are emitted: axes, sizes, buffers, tiles read from memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from xdsl.ir import SSAValue

from ...ir.expr import Expr
from ...ir.tile import tile_type
from .buffers import Buffers
from .builder import PTR, Builder, Val, vec
from .expressions import Expressions, Scope
from .memory import Memory
from .target import Target
from .tiles import Tiles

if TYPE_CHECKING:
    from ...ir.expr import Load
    from ...ir.tile import ForOp
    from .ahead import Ahead
    from .squares import Square
    from .tables import Filled


@dataclass(frozen=True)
class KeyView:
    """A tile with features in the lanes: rows of contiguous elements in memory or in scratch."""

    pointer: Val
    stride: Val  # elements from row to row
    axes: tuple[str, str]
    width: int  # elements of a row
    in_place: bool  # may be the user's memory, far from the cache
    element: str


@dataclass(frozen=True)
class TileView:
    """An operand of matrix registers: its first rows in the user's memory, all others packed."""

    in_place: Val  # how many rows are read where they lie, in whole blocks
    pointer: Val
    stride: Val  # bytes from row to row of the user's memory
    packed: Val
    width: int  # features


@dataclass(frozen=True)
class Span:
    """The part of an axis that a tile covers: global index of element 0, and how many are live."""

    start: Val
    count: Val | int


@dataclass(frozen=True)
class Function:
    """The text of a function that gives no result."""

    parameters: str
    body: str

    def text(self, name: str, attributes: str) -> str:
        return f"llvm.func internal @{name}({self.parameters}) {attributes}{{\n{self.body}\n  llvm.return\n }}"


@dataclass
class Frame:
    """Everything that emission needs to know about where it is."""

    b: Builder
    target: Target
    expressions: Expressions
    memories: dict[SSAValue, Memory]
    buffers: Buffers
    scratch: list[Val]  # pointer of each buffer
    rows: str  # axis in the lanes
    vectors: int  # lane vectors of a tile row
    names: dict[str, Val]  # grid dimensions and sizes
    pairs: bool = False  # may multiply pairs of bf16
    tiles: Tiles = field(default_factory=Tiles)
    zeros: Val = Val("", PTR)  # a row of zeros, to pair the last row with
    part: Val = Val("", PTR)  # room for a block of four tiles
    spans: dict[str, Span] = field(default_factory=dict)
    views: dict[SSAValue, KeyView] = field(default_factory=dict)
    pair_views: dict[SSAValue, KeyView] = field(default_factory=dict)  # of dots that multiply pairs
    row_pairs: dict[SSAValue, KeyView] = field(default_factory=dict)  # pairs of neighbouring rows, feature by feature
    functions: dict[str, Function] = field(default_factory=dict)  # by name, those that the kernel calls
    tile_views: dict[tuple[SSAValue, str], TileView] = field(default_factory=dict)  # with the kind of dot
    positions: dict[tuple[str, Expr], Val] = field(default_factory=dict)  # tables of indices, by axis and expression
    ahead: Ahead | None = None  # what to ask memory for besides
    tables: Filled | None = None  # parts of scores and masks that are computed already
    squares: Mapping[ForOp, Sequence[Square]] = field(default_factory=dict)  # reads of a loop that may be squares
    rooms: list[Val] = field(default_factory=list)  # for the squares of a step
    apart: Mapping[Load, Callable[[Val | int, Val], Val]] = field(default_factory=dict)  # those of this step
    unmasked: Span | None = None  # of the rows of a loop's tiles, those where masks take nothing away
    masks: bool = True  # do masks take anything away?
    most_rows: int = 0  # of a tile
    upright: frozenset[SSAValue] = frozenset()  # tiles in scratch with features in the lanes

    bands: dict[tuple[SSAValue, tuple[Expr, ...]], Val] = field(default_factory=dict)  # rows by distance, transposed

    @property
    def element(self) -> str:
        return self.expressions.float

    @property
    def lanes(self) -> int:
        return self.expressions.lanes

    @property
    def vector(self) -> str:
        return vec(self.lanes, self.element)

    @property
    def row_width(self) -> int:
        """Elements of a tile row, with lanes beyond the last row."""
        return self.vectors * self.lanes

    def pitch(self, value: SSAValue) -> int:
        """Elements from tile row to tile row of a value in scratch."""
        pitches = self.buffers.pitches
        return pitches[self.buffers.of[value]] if pitches else self.row_width

    def most(self, axis: str, size: int) -> int:
        """How far an axis of a tile goes, at most."""
        if axis == self.rows:
            return min(size, self.most_rows)
        return self.b.known(self.spans[axis].count) or size if axis in self.spans else size

    @property
    def align(self) -> int:
        return self.target.vector_bytes

    def inside(self, spans: dict[str, Span]) -> Frame:
        """This frame with more axes in scope, for the body of a loop."""
        views, pair_views, tile_views = dict(self.views), dict(self.pair_views), dict(self.tile_views)
        row_pairs = dict(self.row_pairs)
        spans = self.spans | spans
        positions = {key: table for key, table in self.positions.items() if self.spans.get(key[0]) is spans.get(key[0])}
        return replace(
            self,
            spans=spans,
            views=views,
            pair_views=pair_views,
            row_pairs=row_pairs,
            tile_views=tile_views,
            positions=positions,
            bands={},
        )

    def call(self, name: str, arguments: Sequence[Val], emit: Callable[[Frame, Sequence[Val]], None]) -> None:
        """Call a function of the kernel's own, whose body ``emit`` writes the first time."""
        if name not in self.functions:
            b = Builder()
            args = [Val(f"%arg{n}", v.type) for n, v in enumerate(arguments)]
            # what is known outside is not known inside
            inner = replace(
                self, b=b, expressions=self.expressions.in_another(b), names={}, spans={}, views={}, positions={}
            )
            emit(inner, args)
            self.functions[name] = Function(", ".join(f"{v.ssa}: {v.type}" for v in args), b.body())
        names, types = ", ".join(v.ssa for v in arguments), ", ".join(v.type for v in arguments)
        self.b.line(f"llvm.call @{name}({names}) : ({types}) -> ()")

    def scalar_scope(self, extra: dict[str, Val] | None = None) -> Scope:
        """Names for expressions that are the same in all lanes."""
        starts = {axis: span.start for axis, span in self.spans.items()}
        return Scope({**starts, **self.names, **(extra or {})})

    def lane_indices(self, lane: Val) -> Val:
        """Global row index of each lane of the vector that starts at lane number ``lane``."""
        b, type = self.b, vec(self.lanes, "i32")
        first = b.cast("trunci", b.add(self.spans[self.rows].start, lane), "i32")
        return b.binary("addi", b.broadcast(first, self.lanes), b.iota(type))

    def live_lanes(self, lane: Val) -> Val:
        """Which lanes of the vector that starts at ``lane`` hold live rows."""
        count = self.spans[self.rows].count
        assert isinstance(count, Val)
        return self.b.mask_below(self.b.sub(count, lane), self.lanes)

    def element_pointer(self, value: SSAValue, row: Val | int) -> Val:
        """Where a buffer keeps one element of a tile without the row axis."""
        return self.b.at(self.scratch[self.buffers.of[value]], row, self.element)

    def upright_row(self, value: SSAValue, row: Val) -> Val:
        """Where a buffer keeps the features of a row of an upright tile."""
        width = list(tile_type(value).shape.values())[-1]
        return self.b.at(self.scratch[self.buffers.of[value]], self.b.mul(row, width), self.element)

    def row_pointer(self, value: SSAValue, row: Val | int, lane: Val) -> Val:
        """Where a buffer keeps the lanes from ``lane`` on of one tile row."""
        b = self.b
        pointer = self.scratch[self.buffers.of[value]]
        if not isinstance(row, int):
            pointer = b.at(pointer, b.mul(row, self.pitch(value)), self.element)
        return b.at(pointer, lane, self.element)
