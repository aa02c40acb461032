"""A tile kernel as MLIR text: one function that takes tasks from a counter until none is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from xdsl.dialects.builtin import Float64Type, IntegerType
from xdsl.ir import Attribute, Operation, SSAValue

from ...ir.expr import loads
from ...ir.tile import BandAddOp, BandDotOp, DotOp, ForOp, KernelOp, LoadOp, MemType, StoreOp, TileType, memory_type
from . import amx
from .ahead import AT_ONCE, AT_ONCE_ON_TILES, Ahead, wanted
from .amx_dots import TileDots
from .amx_pack import Packs as TilePacks
from .amx_pack import load_lanes, packed_bytes
from .bands import Bands
from .buffers import Buffers, assign
from .builder import ELEMENT_BYTES, Builder, Val
from .errors import UnsupportedKernelError
from .expressions import Expressions, Limits
from .few_rows import FewRowsEmitter
from .few_rows_plan import FewRowsPlan
from .frame import Frame, Span
from .loops import walk_ranges
from .memory import CapturedReads, Memory, load_arguments, slots
from .passes import PassEmitter
from .plan import BlockPlan, Pass, Step, axes, plan_block
from .row_dot import RowDotEmitter, UprightDotEmitter, most_rows, upright
from .row_sums import RowSumEmitter, row_sum
from .squares import room_for, squares, with_squares
from .strips import is_striped, live_keys, only_keys, set_pitches, strip, unmasked_keys
from .tables import Filled, tables
from .target import Target
from .tiles import SIDE, Tiles, padded
from .transfers import Transfers
from .vecmath import VectorMath

Packs = dict[tuple[LoadOp, str], Val]  # scratch of a load that may not be read in place, for each form of it
TASKS = 1024  # times that threads come for tasks, at most; enough for them to finish at the same time
MOST_TASKS = 32  # tasks taken at a time
STACK_LIMIT = 2 << 20  # bytes of scratch that a thread's stack surely holds


@dataclass(frozen=True)
class Lowered:
    """The text of a kernel and what the launcher must know."""

    text: str
    ranks: list[int]
    sizes: list[str]
    scratch_bytes: int
    limits: Limits


def lower(kernel: KernelOp, target: Target) -> Lowered:
    """Generate the MLIR of one kernel.  Raises :class:`UnsupportedKernelError`."""
    return _KernelLowering(kernel, target).run()


def memory_element(type: Attribute) -> str:
    """Name of a memory's element type: "f32", "bf16", "i64", "i1"."""
    element = type.element if isinstance(type, MemType) else type
    return f"i{element.width.data}" if isinstance(element, IntegerType) else str(element)


class _KernelLowering:
    def __init__(self, kernel: KernelOp, target: Target):
        self.kernel, self.target = kernel, target
        self.name = kernel.sym_name.data
        self.rows = kernel.rows.data
        self.sizes = list(kernel.size_names)
        self.ranks = [memory_type(a).rank.data for a in kernel.args]
        self.elements = [memory_element(a.type) for a in kernel.args]
        self.element = "f64" if self._uses_f64() else "f32"
        self.pairs = target.pairs and self.element == "f32"
        lanes = target.lanes(self.element)
        self.few = FewRowsPlan.of(kernel, lanes)
        narrow = ((target.tiles and not self.few) or target.pairs) and self.element == "f32"
        self.tiles = Tiles.of(kernel) if narrow else Tiles()
        if not target.tiles:
            self.tiles = self.tiles.in_vectors()
        self.vectors = -(-self.rows.size // lanes)
        if self.tiles.dots:
            self.vectors = padded(self.rows.size) // lanes
        self.block = kernel.body.block
        self.upright = frozenset() if self.few else upright(kernel, lanes, self.tiles)
        self.plan = plan_block(self.block, self.rows.name, self.pairs, self.tiles, self.upright)
        self.buffers: Buffers = assign(self.plan, self.block, self.rows.name, self.rows.size)
        set_pitches(self.buffers, self.plan, lanes, self.vectors * lanes, self.tiles)
        self.scratch_bytes = 0
        self.ahead = [] if self.few else wanted(kernel, gaps=bool(self.tiles.dots) or target.pairs)
        self.tables = [] if self.few else tables(kernel, self.vectors * lanes, lanes, self.element)
        held = {read for table in self.tables for read in loads(table.e)}
        self.squares = {} if self.few else squares(kernel, held)

    def _uses_f64(self) -> bool:
        tiles = [r.type for op in self.kernel.walk() for r in op.results if isinstance(r.type, TileType)]
        return any(isinstance(t.element, Float64Type) for t in tiles)

    def run(self) -> Lowered:
        body, frame = self._function(self._tasks)
        count, _ = self._function(self._task_count)
        limits = frame.expressions.limits
        grid = ", ".join(f"{d.name} < {d.extent}" for d in self.kernel.grid.data)
        of_module, of_function = self.target.attributes
        text = "\n".join([
            f"// kernel {self.name} for {self.target.name}: {self.vectors} vectors of {self.element}, rows {self.rows}",
            f"// grid {grid}",
            f"module {of_module}{{",
            f" llvm.func @{self.name}(%args: !llvm.ptr) {of_function}{{",
            body,
            "  llvm.return",
            " }",
            f" llvm.func @{self.name}.tasks(%args: !llvm.ptr) -> i64 {of_function}{{",
            count,
            " }",
            *(f" {f.text(name, of_function)}" for name, f in frame.functions.items()),
            "}\n",
        ])  # fmt: skip
        if self.scratch_bytes > STACK_LIMIT:
            raise UnsupportedKernelError(
                f"kernel {self.name} needs {self.scratch_bytes >> 10} KB of scratch a thread, "
                f"more than {STACK_LIMIT >> 10}; choose smaller tiles"
            )
        return Lowered(text, self.ranks, self.sizes, self.scratch_bytes, limits)

    def _function(self, emit: Callable[[Builder, Frame], None]) -> tuple[str, Frame]:
        b = Builder()
        frame = self._frame(b)
        emit(b, frame)
        return b.body(), frame

    def _frame(self, b: Builder) -> Frame:
        args = Val("%args", "!llvm.ptr")
        memories = load_arguments(b, args, self.kernel.names, self.elements, self.ranks)
        first = slots(self.ranks)[-1]
        sizes = {n: b.load(b.at(args, first + k, "i64"), "i64", 8, n) for k, n in enumerate(self.sizes)}
        reads = CapturedReads(memories, self.rows.name)
        math = VectorMath(b, self.target, self.element, coarse=bool(self.tiles.dots or self.tiles.pairs))
        expressions = reads.expressions = Expressions(math, reads)
        by_value: dict[SSAValue, Memory] = dict(zip(self.kernel.args, memories.values(), strict=True))
        return Frame(
            b,
            self.target,
            expressions,
            by_value,
            self.buffers,
            [],
            self.rows.name,
            self.vectors,
            sizes,
            self.pairs,
            self.tiles,
            most_rows=most_rows(self.kernel),
            upright=self.upright,
        )

    # ---- tasks ----------------------------------------------------------------------------------------

    def _extents(self, b: Builder, frame: Frame) -> list[Val]:
        scope = frame.scalar_scope()
        return [b.most(frame.expressions.scalar(d.extent, scope), 0) for d in self.kernel.grid.data]

    def _total(self, b: Builder, extents: list[Val]) -> Val:
        total = b.integer(1)
        for extent in extents[: len(extents) - self.kernel.sequential.data]:
            total = b.binary("muli", total, extent)
        return total

    def _task_count(self, b: Builder, frame: Frame) -> None:
        b.line(f"llvm.return {self._total(b, self._extents(b, frame)).ssa} : i64")

    def _tasks(self, b: Builder, frame: Frame) -> None:
        extents = self._extents(b, frame)
        total = self._total(b, extents)
        bytes_each = ELEMENT_BYTES[self.element]
        padding = padded if self.tiles.dots else int
        shapes = zip(self.buffers.rows, self.buffers.pitches, strict=True)
        sizes = self.few.sizes if self.few else [padding(rows) * pitch for rows, pitch in shapes]
        for n, size in enumerate(sizes):
            frame.scratch.append(self._scratch(b, size * bytes_each, f"scratch{n}"))
        packs = self._pack_scratch(b, frame, self.plan)
        if self.tables:
            bytes_of = [t.size(frame.lanes) for t in self.tables]
            frame.tables = Filled(b, self.tables, [self._scratch(b, size, "table") for size in bytes_of])
        frame.squares = self.squares
        for n in range(max(map(len, self.squares.values()), default=0)):
            size = max(room_for(loop, frame) for loop, found in self.squares.items() if n < len(found))
            frame.rooms.append(self._scratch(b, size, f"square{n}"))
        control = self._tile_scratch(b, frame) if self.tiles.dots or self.tiles.pairs else None
        # many small tasks are taken several at a time, for the counter is shared by all threads
        chunk = b.most(b.least(b.binary("divui", total, b.integer(TASKS)), MOST_TASKS), 1)
        counter = Val("%args", "!llvm.ptr")
        task, taken = b.name("task"), b.name("taken")

        def take() -> Val:
            return b.op(f"llvm.atomicrmw add {counter.ssa}, {chunk.ssa} monotonic : !llvm.ptr, i64", "i64", "next")

        # where there is something to ask for, the tasks after those taken are known while these run
        start = take() if self.ahead else chunk
        with b.block(f"{taken} = scf.while (%again = {start.ssa}) : (i64) -> i64 {{", "} do {"):
            found = Val("%again", "i64") if self.ahead else take()
            more = b.less(found, total)
            b.line(f"scf.condition({more.ssa}) {found.ssa} : i64")
        with b.block(f"^bb0({task}_first: i64):"):
            first = Val(f"{task}_first", "i64")
            following = take() if self.ahead else chunk
            with b.loop(first, end := b.least(b.add(first, chunk), total), hint="task") as loop:
                later = None
                if self.ahead:
                    later = b.add(loop.iv, 1)
                    later = b.least(b.select(b.less(later, end), later, following), b.sub(total, 1))
                self._task(b, frame, loop.iv, later, extents, packs)
            b.line(f"scf.yield {following.ssa} : i64")
        if control is not None:
            amx.release(b, control)

    def _tile_scratch(self, b: Builder, frame: Frame) -> Val | None:
        """A row of zeros; matrix registers ready for use, if there are any, and room for one block."""
        control = amx.configure(b) if self.tiles.dots else None
        widths = [n for op in self.kernel.walk() if isinstance(op, LoadOp) for n in axes(op.result).values()]
        size = padded(max(widths)) * 2
        frame.zeros = self._scratch(b, size, "zeros")
        if self.tiles.dots:
            frame.part = self._scratch(b, SIDE * amx.ROWS * 4, "part")
        with b.loop(0, size, 64, hint="byte") as byte:
            b.store(b.zero(frame.vector), b.at(frame.zeros, byte.iv, "i8"), 64)
        return control

    def _scratch(self, b: Builder, size: int, name: str) -> Val:
        self.scratch_bytes += size
        return b.alloca(max(size, 64), name)

    def _pack_scratch(self, b: Builder, frame: Frame, plan: BlockPlan) -> Packs:
        """Room for key tiles that cannot be read in place; loops that follow one another share it."""
        pools: dict[int, list[Val]] = {}
        result: Packs = {}

        def visit(plan: BlockPlan, taken: dict[int, int]) -> None:
            wide = [*((op, "wide") for op in plan.key_loads), *((op, "pairs") for op in plan.pair_loads)]
            rows = [(op, "rows") for op in plan.row_pair_loads]
            for op, form in [*wide, *plan.tile_loads, *rows]:
                (_, count), (_, width) = axes(op.result).items()
                size = count * Transfers(frame).packed_width(width) * ELEMENT_BYTES[self.element]
                if (op, form) in plan.tile_loads or form == "rows":
                    size = packed_bytes(op)
                pool = pools.setdefault(size, [])
                n = taken.get(size, 0)
                if n == len(pool):
                    pool.append(self._scratch(b, size, f"packed{len(result)}"))
                result[op, form] = pool[n]
                taken[size] = n + 1
            for body in plan.bodies.values():
                visit(body, dict(taken))

        visit(plan, {})
        return result

    def _task(self, b: Builder, frame: Frame, task: Val, later: Val | None, extents: list[Val], packs: Packs) -> None:
        names = frame.names | self._names(b, task, extents)
        dims = list(zip(self.kernel.grid.data, extents, strict=True))
        with ExitStack() as loops:
            following = names if later is None else frame.names | self._names(b, later, extents)
            for dim, extent in dims[len(dims) - self.kernel.sequential.data :]:
                names[dim.name] = n = loops.enter_context(b.loop(0, extent, hint=dim.name)).iv
                following = names | {dim.name: b.least(b.add(n, 1), b.sub(extent, 1))}
            if self.ahead:
                ahead = Ahead(b, self.ahead, AT_ONCE_ON_TILES if self.tiles.dots else AT_ONCE)
                next_one = replace(frame, names=following)
                ahead.fill(next_one, self._rows_of(next_one))
                frame = replace(frame, ahead=ahead)
            inner = replace(frame, names=names, views={}, pair_views={}, row_pairs={}, tile_views={})
            self._tile(inner, {d.name: extent for d, extent in dims}, packs)

    def _names(self, b: Builder, task: Val, extents: list[Val]) -> dict[str, Val]:
        """The grid dimensions of a task, less those that run in order."""
        dims = list(zip(self.kernel.grid.data, extents, strict=True))
        found: dict[str, Val] = {}
        for dim, extent in reversed(dims[: len(dims) - self.kernel.sequential.data]):
            found[dim.name] = b.pure(f"arith.remui {task.ssa}, {extent.ssa} : i64", "i64", dim.name)
            task = b.binary("divui", task, extent)
        return found

    def _rows_of(self, frame: Frame) -> Span:
        """The rows of a task's tile; less than none where there are none."""
        b = frame.b
        base = frame.expressions.scalar(self.rows.base, frame.scalar_scope())
        bound = frame.expressions.scalar(self.rows.bound, frame.scalar_scope())
        return Span(base, b.least(b.sub(bound, base), self.rows.size))

    def _tile(self, inner: Frame, extents: Mapping[str, Val], packs: Packs) -> None:
        b, span = inner.b, self._rows_of(inner)
        live = span.count
        assert isinstance(live, Val)
        inner = inner.inside({self.rows.name: span})
        with b.when(b.cmpi("sgt", live, b.integer(0))):
            if self.few:
                FewRowsEmitter(inner, self.few, {op: room for (op, _), room in packs.items()}).emit(self.block)
                return
            if inner.tables:
                inner.tables.fill(inner, extents)
            _BlockEmitter(inner, self.plan, packs).emit()


class _BlockEmitter:
    """Emits the steps of one block."""

    def __init__(self, frame: Frame, plan: BlockPlan, packs: Packs):
        self.f, self.b, self.plan, self.packs = frame, frame.b, plan, packs

    def emit(self) -> None:
        self.read()
        self.run()

    def read(self) -> None:
        """Find, or pack, what steps read from memory."""
        transfers = Transfers(self.f)
        for op in self.plan.key_loads:
            self._comment(op)
            self.f.views[op.result] = transfers.view(op, self.packs[op, "wide"])
        for op in self.plan.pair_loads:
            self._comment(op)
            self.f.pair_views[op.result] = transfers.view(op, self.packs[op, "pairs"], pairs=True)
        for op, kind in self.plan.tile_loads:
            self._comment(op)
            self.f.tile_views[op.result, kind] = TilePacks(self.f, op, self.packs[op, kind]).view(kind)
        for op in self.plan.row_pair_loads:
            self._comment(op)
            self.f.row_pairs[op.result] = TilePacks(self.f, op, self.packs[op, "rows"]).row_pairs()

    def run(self) -> None:
        """The steps themselves."""
        steps = self.plan.steps
        if found := row_sum(self.plan, self.f.rows):
            sums, steps = RowSumEmitter(self.f, found), steps[len(found.steps) :]
            with self.b.when(sums.is_possible()):
                self._comment(found.op)
                sums.emit()
            with self.b.otherwise():
                self._run(found.steps)
        self._run(steps)

    def _run(self, steps: Sequence[Step]) -> None:
        transfers = Transfers(self.f)
        stores = [s for s in steps if isinstance(s, StoreOp) and self._is_late(s)]
        for step in steps:
            if isinstance(step, ForOp):
                for store in [] if self.f.ahead else stores:
                    transfers.expect(store)
                stores = []
            match step:
                case Pass():
                    PassEmitter(self.f, step).emit()
                case LoadOp() if step in self.f.tiles.lanes:
                    self._comment(step)
                    load_lanes(self.f, step)
                case LoadOp():
                    self._comment(step)
                    transfers.load_rows(step)
                case StoreOp():
                    self._comment(step)
                    transfers.store(step)
                case DotOp() if step in self.f.tiles.dots:
                    self._comment(step)
                    TileDots(self.f, step).emit()
                case DotOp() if step.result in self.f.upright:
                    self._comment(step)
                    UprightDotEmitter(self.f, step).emit()
                case DotOp():
                    self._comment(step)
                    RowDotEmitter(self.f, step).emit()
                case BandDotOp() | BandAddOp():
                    self._comment(step)
                    Bands(self.f, step).emit()
                case ForOp():
                    self._loop(step)

    def _is_late(self, op: StoreOp) -> bool:
        """Does it write rows of features, from a tile that loops leave behind?"""
        return len(axes(op.value)) == 2 and not any(a in self.f.spans for a in axes(op.value) if a != self.f.rows)

    def _comment(self, op: Operation) -> None:
        self.b.comment(" ".join(str(op).split()))

    def _loop(self, op: ForOp) -> None:
        for initial, argument in zip(op.initial, op.carried, strict=True):
            self._copy(initial, argument)
        walk_ranges(self.f, op, lambda frame: self._body(op, frame))

    def _body(self, op: ForOp, frame: Frame) -> None:
        plan = self.plan.bodies[op]
        body = _BlockEmitter(frame, plan, self.packs)
        body.read()
        if not is_striped(plan, frame.rows, frame.tiles):
            body.finish(op)
            return
        rows = frame.spans[frame.rows].count
        with self.b.loop(0, rows, SIDE, hint="strip") as loop:
            inner = strip(frame, loop.iv)
            keys = live_keys(inner, op, plan)
            if keys is None:
                _BlockEmitter(inner, plan, self.packs).finish(op)
                return
            assert isinstance(keys.count, Val)
            with self.b.when(self.b.cmpi("sgt", keys.count, self.b.integer(0))):
                unmasked = unmasked_keys(inner, op, keys)
                _BlockEmitter(replace(only_keys(inner, op, keys), unmasked=unmasked), plan, self.packs).finish(op)

    def finish(self, op: ForOp) -> None:
        """The steps of a loop's body, and its carried values."""
        if op in self.f.squares:
            self.f = with_squares(self.f, op)
        self.run()
        for value, argument in zip(self.plan.yields, op.carried, strict=True):
            self._copy(value, argument)

    def _copy(self, source: SSAValue, target: SSAValue) -> None:
        """Put a value where a loop carries it, unless it is computed there already."""
        of = self.f.buffers.of
        if source is target or of.get(source) == of[target]:
            return
        step = Pass(axes(target))
        PassEmitter(self.f, step).copy(source, target)
