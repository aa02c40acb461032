"""The body of a kernel as Triton statements: one method an op, expressions by :class:`Scalars`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Operation, SSAValue

from ...ir import tile
from ...ir.dtypes import accumulator, name_of
from ...ir.expr import Const, Expr, Load, Var, all_of, free_vars, loads, lt
from ...ir.tile import memory_type, tile_type
from .addresses import Addresses, scaled
from .bands import emit_band_add, emit_band_dot
from .common import common
from .config import Config
from .descriptors import Descriptors
from .errors import UnsupportedKernelError
from .facts import Fill, fill_of, is_wide, nonnegative
from .layout import AxisCode, axis_order, axis_sizes, dtype, padded, padded_shape, rows_always_live
from .loops import emit_loop
from .masks import by_bounds
from .scalars import Scalars, Text, expanded, in_order, number
from .source import Names, Source
from .steps import Steps
from .stores import emit_store


class Emitter:
    """State while printing one kernel."""

    def __init__(
        self,
        kernel: tile.KernelOp,
        names: Names,
        arguments: Sequence[str],
        scalars: Mapping[str, str],
        source: Source,
        config: Config,
    ):
        self.kernel, self.names, self.source, self.config = kernel, names, source, config
        self.scalars = {name: Text(code) for name, code in scalars.items()}  # sizes and grid dimensions
        self.named: dict[Expr, Text] = {}  # what occurs often, by name
        self.memory = dict(zip(kernel.args, arguments, strict=True))  # memory -> pointer argument
        self.order = axis_order(kernel)
        self.steps = Steps(kernel)
        self.captured_as = dict(zip(kernel.names, arguments, strict=True))
        self.elements = {n: memory_type(a).element for n, a in zip(kernel.names, kernel.args, strict=True)}
        self.axes: dict[str, AxisCode] = {}
        self.values: dict[SSAValue, str] = {}
        self.fills: dict[SSAValue, dict[str, Fill]] = {}
        self.addresses, self.descriptors = Addresses(self), Descriptors(self)
        self.helpers: set[str] = set()
        self.guarded: set[tuple[str, int]] = set()  # sizes of captured tensors that the kernel compares with
        self.wanted: dict[SSAValue, str] = {}  # a name that a value's definition must use
        self.rests: dict[Operation | None, list[tuple[str, str]]] = {}  # loop -> ranges that another leaves to it
        self.bounds: dict[tile.ForOp, list[tuple[str, str]]] = {}  # loop to come -> its ranges, by name
        self.origin = ""

    # ---- statements -----------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.source.line(text)

    def define(self, value: SSAValue, code: str, fills: dict[str, Fill] | None = None) -> None:
        name = self.wanted.get(value) or self.names.fresh(value.name_hint or "x")
        self.values[value] = name
        self.fills[value] = fills or {}
        self.line(f"{name} = {code}")

    def run(self, level: int = 0) -> None:
        """The task from ``level`` sequential dimensions inwards: what depends on no more of them, then the next."""
        self.prologue(level)
        dims = self.steps.dims
        if level == len(dims):
            self.body([op for op in self.kernel.body.block.ops if op not in self.steps.moved])
        else:
            name = self.scalars[dims[level].name].code
            step = self.names.fresh(f"{name}_step")
            self.line(f"for {step} in range(0, {self.scalar(dims[level].extent).code}):")
            with self.source.indented():
                self.line(f"{name} = tl.cast({step}, tl.int32)")
                self.run(level + 1)
                if level == len(dims) - 1 and self.steps.reread:
                    self.barrier()
        self.body(self.steps.after[level])

    def name_common(self) -> None:
        """Give names to long expressions of sizes that occur often, such as the length of a part."""
        for e in common(self.kernel, self.kernel.size_names):
            name = self.names.fresh("size")
            self.line(f"{name} = {self.scalar(e).code}")
            self.named[e] = Text(name)

    def barrier(self) -> None:
        self.line("tl.debug_barrier()  # what this step stored, other threads load in the next")

    def prologue(self, level: int) -> None:
        """Index vectors and base addresses that are known at ``level``, before any op."""
        if self.steps.of_rows == level:
            self.rows_axis()
        if level == 0:
            for axis, width in sorted(axis_sizes(self.kernel).items()):
                index = self.names.fresh(axis)
                self.line(f"{index} = tl.arange(0, {padded(width)}).to(tl.int64)")
                live = None if padded(width) == width else f"{index} < {width}"
                self.axes[axis] = AxisCode(index, live, wide=True, end=str(width))
        for op in self.kernel.body.walk():
            if isinstance(op, tile.LoadOp | tile.StoreOp | tile.BandDotOp | tile.BandAddOp):
                self.addresses.prepare(op, level)
        self.body(self.steps.before[level])

    def rows_axis(self) -> None:
        rows = self.kernel.rows.data
        size = padded(rows.size)
        index = self.names.fresh(rows.name)
        base = self.scalar(rows.base)
        plus = "" if base.code == "0" else f"{base.at_least(9)} + "
        self.line(f"{index} = {plus}tl.arange(0, {size})")
        if rows_always_live(self.kernel):
            self.axes[rows.name] = AxisCode(index, None)
            return
        bound = self.scalar(rows.bound)
        if size != rows.size:
            end = f"{base.at_least(9)} + {rows.size}"
            bound = Text(f"tl.minimum({end}, {bound.code})")
        if bound.strength < 20 or "(" in bound.code:
            name = self.names.fresh(f"{rows.name}_end")
            self.line(f"{name} = {bound.code}")
            bound = Text(name)
        self.axes[rows.name] = AxisCode(index, f"{index} < {bound.code}")

    def body(self, ops: Sequence[Operation]) -> Sequence[SSAValue]:
        """Print the ops; gives the operands of the final yield."""
        for op in ops:
            if isinstance(op, tile.YieldOp):
                return op.values
            self.comment(op)
            emit = _TABLE.get(type(op))
            if emit is None:
                raise UnsupportedKernelError(f"the triton backend has no rule for {op.name}")
            emit(self, op)
        return ()

    def ranges(self, op: tile.ForOp) -> list[tuple[str, str]]:
        """The ends of a loop's ranges, as names or numbers."""
        if op not in self.bounds:
            place = [""] if len(op.range_list) == 1 else [str(n) for n in range(len(op.range_list))]
            self.bounds[op] = [
                (self.short(r.lo, f"lo{n}"), self.short(r.hi, f"hi{n}"))
                for n, r in zip(place, op.range_list, strict=True)
            ]
        return self.bounds[op]

    def short(self, e: Expr, wanted: str) -> str:
        """A scalar's code, by name if it is long."""
        text = self.scalar(e)
        if is_wide(e):  # but a position
            text = Text(f"tl.cast({text.code}, tl.int32)")
        if text.strength == 20 and "(" not in text.code:
            return text.code
        name = self.names.fresh(wanted)
        self.line(f"{name} = {text.code}")
        return name

    def comment(self, op: Operation) -> None:
        """The user's lines, where they change."""
        at = op.attributes.get("lines", op.attributes.get("at"))
        if isinstance(at, StringAttr) and at.data != self.origin:
            self.origin = at.data
            self.line(f"# {at.data}")

    # ---- expressions ----------------------------------------------------------------------------------

    def printer(self, axes: Sequence[str], float_type: str, params: Mapping[str, Text] | None = None) -> Scalars:
        """A printer of expressions over the given axes, grid dimensions, sizes and ``params``."""
        index = {a: Text(code.index, axes=(a,), wide=code.wide) for a, code in self.axes.items()}
        cache: dict[Load, Text] = {}

        def read(load: Load, scalars: Scalars) -> Text:
            if load not in cache:
                cache[load] = self.captured(load, scalars)
            return cache[load]

        names = {**self.scalars, **index, **(params or {})}
        return Scalars(names, axes, float_type, read, self.helpers.add, self.named)

    def scalar(self, e: Expr) -> Text:
        return self.printer((), "tl.float32").text(e)

    def captured(self, load: Load, scalars: Scalars) -> Text:
        """Read an element of a captured tensor; dead elements may point outside it and read 0."""
        memory, element = self.captured_as[load.tensor], self.elements[load.tensor]
        texts = [scalars.text(e) for e in load.index]
        terms, guards = [], []
        for n, (e, x) in enumerate(zip(load.index, texts, strict=True)):
            terms.append(scaled(x, f"{memory}_s{n}"))
            if x.axes or loads(e):
                guards += self.inside(memory, n, e, x)
        axes = in_order(scalars.axes, {a for x in texts for a in x.axes})
        address = " + ".join([memory, *(expanded(t, axes).at_least(10) for t in terms if t.code != "0")])
        mask = " & ".join(expanded(g, axes).code for g in guards)
        code = f"tl.load({address}{f', mask={mask}, other=0' if mask else ''})"
        if load.kind == "float":
            code += f".to({scalars.float_type})" if dtype(element) != scalars.float_type else ""
        elif load.kind == "bool":
            code += "" if name_of(element) == "i1" else " != 0"
        elif name_of(element) not in ("i64", "i32"):
            code += ".to(tl.int32)"
        name = self.names.fresh(f"{memory}_at")
        self.line(f"{name} = {code}")
        return Text(name, axes=axes, kind=load.kind)

    def inside(self, memory: str, n: int, e: Expr, x: Text) -> list[Text]:
        """The conditions that ``e``, printed as ``x``, is an index of axis ``n``."""
        self.guarded.add((memory, n))
        low = [] if nonnegative(e) else [Text(f"({x.at_least(5)} >= 0)", axes=x.axes)]
        return [*low, Text(f"({x.at_least(5)} < {memory}_n{n})", axes=x.axes)]

    # ---- tiles ------------------------------------------------------------------------------------------

    def shape(self, value: SSAValue) -> dict[str, int]:
        """Axis -> size of a tile, in the order of the printed axes."""
        return dict(sorted(tile_type(value).shape.items(), key=lambda axis: self.order[axis[0]]))

    def live(self, axes: Sequence[str], *more: Text) -> str:
        """The condition that an element of a tile is live, and ``more``; empty where all are."""
        terms = [Text(f"({self.axes[a].live})", axes=(a,)) for a in axes if self.axes[a].live]
        terms += more
        if len(terms) == len(axes) == 1:
            return terms[0].code[1:-1]
        return " & ".join(expanded(t, axes).code for t in terms)

    def fill_dead(self, value: SSAValue, axis: str, wanted: float) -> None:
        """Make sure that the dead elements along ``axis`` hold ``wanted``."""
        live = self.axes[axis].live
        if live is None or self.fills[value].get(axis, "any") == wanted:
            return
        name = self.values[value]
        condition = expanded(Text(f"({live})", axes=(axis,)), list(self.shape(value))).code
        self.line(f"{name} = tl.where({condition}, {name}, {number(wanted)})")
        self.fills[value] = {axis: wanted}

    # ---- one method an op -----------------------------------------------------------------------------

    def full(self, op: tile.FullOp) -> None:
        shape = self.shape(op.result)
        value = op.value.data.body
        fill: Fill = float(value.value) if isinstance(value, Const) else "any"
        code = f"tl.full({padded_shape(shape)}, {self.scalar(value).code}, {dtype(tile_type(op.result).element)})"
        self.define(op.result, code, dict.fromkeys(shape, fill))

    def load(self, op: tile.LoadOp) -> None:
        shape = self.shape(op.result)
        address, live = self.addresses.of_load(op, shape), self.live(list(shape))
        code = f"tl.load({address}{f', mask={live}, other=0.0' if live else ''})"
        zeros: dict[str, Fill] = dict.fromkeys(shape, 0.0)
        numbers: dict[str, Fill] = dict.fromkeys(shape, "finite")
        descriptor = self.descriptors.used.get(op)
        if descriptor is None:
            self.define(op.result, code, zeros)
            return
        start = f"tl.cast({self.addresses.start}, tl.int32)"
        name = self.wanted.get(op.result) or self.names.fresh(op.result.name_hint or "x")
        self.values[op.result] = name
        self.descriptors.either(
            [f"{name} = {descriptor}.load([{start}, {self.descriptors.first[op]}])"], [f"{name} = {code}"]
        )
        # behind the end there may be rows of later steps, which other pairs use: numbers, but no zeros
        self.fills[op.result] = zeros if self.descriptors.zero_after(op) else numbers

    def store(self, op: tile.StoreOp) -> None:
        emit_store(self, op)

    def map(self, op: tile.MapOp) -> None:
        type = tile_type(op.result)
        shape = self.shape(op.result)
        axes = list(shape)
        compute = accumulator(type.element)
        for v in op.inputs:
            if name_of(tile_type(v).element) == "f64":
                compute = tile_type(v).element
        operands = dict(zip(op.function.data.params, op.inputs, strict=True))
        params = {p: self.operand(v, dtype(compute)) for p, v in operands.items()}
        x = self.printer(axes, dtype(compute), params).text(op.function.data.body)
        x = expanded(x, axes)
        if x.axes == () and axes:
            x = Text(f"tl.full({padded_shape(shape)}, {x.code}, {dtype(compute)})", axes=tuple(axes))
        elif not set(self.used_axes(op)) >= set(axes):
            x = Text(f"tl.broadcast_to({x.code}, {padded_shape(shape)})", axes=tuple(axes))
        if type.element != compute:
            x = x.method(f"to({dtype(type.element)})")
        fills = {}
        for a in axes:
            known: dict[str, Fill] = {
                p: self.fills[v].get(a, "any") if a in tile_type(v).shape else "finite" for p, v in operands.items()
            }
            fills[a] = fill_of(op.function.data.body, known)
        self.define(op.result, x.code, fills)

    def used_axes(self, op: tile.MapOp) -> set[str]:
        """Axes along which the function's value varies."""
        used = set()
        for name in free_vars(op.function.data.body):
            if name in op.function.data.params:
                used |= set(tile_type(op.inputs[op.function.data.params.index(name)]).shape)
            elif name in self.axes:
                used.add(name)
        return used

    def operand(self, value: SSAValue, float_type: str) -> Text:
        """A tile as an operand of a map."""
        x = Text(self.values[value], axes=tuple(self.shape(value)), kind="float")
        return x if dtype(tile_type(value).element) == float_type else x.method(f"to({float_type})")

    def mask(self, op: tile.MaskOp) -> None:
        axes, row = list(self.shape(op.result)), self.kernel.rows.data.name
        keys = [a for a in axes if a != row and self.axes[a].live]
        ends = {f"end of {a}": Text(self.axes[a].end) for a in keys}
        wanted = all_of([op.condition.data, *(lt(Var(a), Var(f"end of {a}")) for a in keys)])
        for a in axes:
            wanted = wanted if a == row else by_bounds(wanted, row, a)
        condition = self.printer(axes, dtype(tile_type(op.result).element), ends).text(wanted)
        code = expanded(condition, axes).code
        value = self.values[op.input]
        code = value if code == "True" else f"tl.where({code}, {value}, {number(float('-inf'))})"
        self.define(op.result, code, dict.fromkeys(keys, float("-inf")))

    def reduce(self, op: tile.ReduceOp) -> None:
        self.fill_dead(op.input, op.axis, float("-inf") if op.kind.data == "max" else 0.0)
        axis = list(self.shape(op.input)).index(op.axis)
        self.define(op.result, f"tl.{op.kind.data}({self.values[op.input]}, {axis})")

    def dot(self, op: tile.DotOp) -> None:
        axis = op.contracted
        self.clear_contracted(op.lhs, op.rhs, axis)
        out = tile_type(op.result)
        wide = max((tile_type(v).element for v in (op.lhs, op.rhs)), key=lambda t: _WIDTH[name_of(t)])
        shapes = [list(self.shape(v)) for v in (op.lhs, op.rhs)]
        casts = ["" if tile_type(v).element == wide else f".to({dtype(wide)})" for v in (op.lhs, op.rhs)]
        codes = [self.values[v] + cast for v, cast in zip((op.lhs, op.rhs), casts, strict=True)]
        single = 1 in {**self.shape(op.lhs), **self.shape(op.rhs)}.values()
        if [len(s) for s in shapes] != [2, 2] or single:
            code = self.vector_dot(op, axis, dtype(out.element))
        else:
            if shapes[0][1 - shapes[0].index(axis)] != next(iter(self.shape(op.result))):
                shapes, codes = shapes[::-1], codes[::-1]
            left = codes[0] if shapes[0].index(axis) == 1 else f"tl.trans({codes[0]})"
            right = codes[1] if shapes[1].index(axis) == 0 else f"tl.trans({codes[1]})"
            options = [f"acc={self.values[op.acc]}"] if op.acc is not None else []
            if name_of(wide) in ("f32", "f64"):
                options.append('input_precision="ieee"')  # no TensorFloat-32: the error stays near eager's
            if name_of(out.element) == "f64":
                options.append("out_dtype=tl.float64")
            code = f"tl.dot({', '.join([left, right, *options])})"
        self.define(op.result, code)

    def vector_dot(self, op: tile.DotOp, axis: str, float_type: str) -> str:
        """A contraction with a vector, or with a matrix of one row, as a sum of products."""
        union = sorted([axis, *self.shape(op.result)], key=self.order.__getitem__)
        x, y = (expanded(self.operand(v, float_type), union) for v in (op.lhs, op.rhs))
        plus = f"{self.values[op.acc]} + " if op.acc is not None else ""
        return f"{plus}tl.sum({x.at_least(10)} * {y.at_least(11)}, {union.index(axis)})"

    def clear_contracted(self, lhs: SSAValue, rhs: SSAValue, axis: str) -> None:
        """Dead elements must add nothing: one side holds 0 there and the other is finite."""
        if self.axes[axis].live is None:
            return
        fills = [self.fills[v].get(axis, "any") for v in (lhs, rhs)]
        finite = [f == "finite" or (isinstance(f, float) and abs(f) < float("inf")) for f in fills]
        if (fills[0] == 0.0 and finite[1]) or (fills[1] == 0.0 and finite[0]):
            return
        self.fill_dead(lhs, axis, 0.0)
        if not finite[1]:
            self.fill_dead(rhs, axis, 0.0)

    def loop(self, op: tile.ForOp) -> None:
        emit_loop(self, op)


_WIDTH = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8}

_TABLE: dict[type[Operation], Callable[..., None]] = {
    tile.FullOp: Emitter.full,
    tile.LoadOp: Emitter.load,
    tile.StoreOp: Emitter.store,
    tile.MapOp: Emitter.map,
    tile.MaskOp: Emitter.mask,
    tile.ReduceOp: Emitter.reduce,
    tile.DotOp: Emitter.dot,
    tile.BandDotOp: emit_band_dot,
    tile.BandAddOp: emit_band_add,
    tile.ForOp: Emitter.loop,
}
