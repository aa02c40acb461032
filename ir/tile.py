"""Dialect ``tile``: how it is computed.

A kernel is a grid of independent tasks.  Inside, values are tiles with *named axes*: ops broadcast by axis
name, ``dot`` contracts the axes that its result lacks, and an axis name used in an expression stands for
the global index of each element.  A backend chooses where a tile lives and how it is laid out, never what
is computed.

The row axis covers ``[base, min(base + size, bound))`` and a loop's axis ``[start, min(start + step, hi))``:
elements beyond the end are dead.  Reductions and contractions skip them, stores leave memory alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from xdsl.dialects.builtin import ArrayAttr, IntAttr, StringAttr, SymbolNameConstraint, SymbolRefAttr, UnitAttr
from xdsl.ir import Attribute, Dialect, Operation, ParametrizedAttribute, Region, SSAValue, TypeAttribute
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    param_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import AttrParser, Parser, UnresolvedOperand
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, IsTerminator, NoTerminator, SymbolOpInterface

from . import syntax
from .attn import TensorType
from .attributes import Dim, DimsAttr, ExprAttr, LambdaAttr, MapAttr, TextData, strings, where
from .expr import Const, Expr, ExprSyntaxError, Lambda, Var, free_vars, kind_of, loads, parse_map
from .syntax import VerifyException


@irdl_attr_definition
class MemType(ParametrizedAttribute, TypeAttribute):
    """A tensor in memory with strides known at run time: ``!tile.mem<4, f32>``."""

    name = "tile.mem"
    rank: IntAttr = param_def()
    element: Attribute = param_def()

    @staticmethod
    def of(rank: int, element: Attribute) -> MemType:
        return MemType(IntAttr(rank), element)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            rank = IntAttr(parser.parse_integer())
            parser.parse_punctuation(",")
            return [rank, parser.parse_type()]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string(f"{self.rank.data}, ")
            printer.print_attribute(self.element)


@irdl_attr_definition
class TileType(ParametrizedAttribute, TypeAttribute):
    """A tile with named axes of fixed size: ``!tile.tile<"i:64, j:128", f32>``."""

    name = "tile.tile"
    axes: ArrayAttr[StringAttr] = param_def()
    sizes: ArrayAttr[IntAttr] = param_def()
    element: Attribute = param_def()

    @staticmethod
    def of(axes: Mapping[str, int], element: Attribute) -> TileType:
        return TileType(ArrayAttr(strings(axes)), ArrayAttr([IntAttr(n) for n in axes.values()]), element)

    @property
    def shape(self) -> dict[str, int]:
        """Axis name -> size, in order."""
        return {a.data: n.data for a, n in zip(self.axes, self.sizes, strict=True)}

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            start = parser.pos
            text = parser.parse_str_literal()
            try:
                shape = {a.strip(): int(n) for a, n in (part.split(":") for part in text.split(",") if part.strip())}
            except ValueError:
                parser.raise_error(f"expected axes such as 'i:64, j:128', found {text!r}", start, parser.pos)
            parser.parse_punctuation(",")
            element = parser.parse_type()
            return [ArrayAttr(strings(shape)), ArrayAttr([IntAttr(n) for n in shape.values()]), element]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(", ".join(f"{a}:{n}" for a, n in self.shape.items()))
            printer.print_string(", ")
            printer.print_attribute(self.element)


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """The row axis of a kernel: element ``n`` is row ``base + n``; rows from ``bound`` on are dead."""

    name: str
    base: Expr
    size: int
    bound: Expr

    def __str__(self) -> str:
        return f"{self.name}, {self.base}, {self.size}, {self.bound}"


@irdl_attr_definition
class AxisAttr(TextData[Axis]):
    """An :class:`Axis`, written ``"i, t * 64, 64, N"``."""

    name = "tile.axis"

    @classmethod
    def read(cls, text: str) -> Axis:
        match parse_map(text):
            case (Var(name), base, Const(int() as size), bound) if size > 0:
                return Axis(name, base, size, bound)
        raise ExprSyntaxError(f"expected 'name, base, size, bound', such as 'i, t * 64, 64, N', found {text!r}")


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Keys ``[lo, hi)``; empty when ``hi <= lo``."""

    lo: Expr
    hi: Expr

    def __str__(self) -> str:
        return f"{self.lo}, {self.hi}"


@irdl_attr_definition
class RangeAttr(TextData[Range]):
    """A :class:`Range`, written ``"lo, hi"``."""

    name = "tile.range"

    @classmethod
    def read(cls, text: str) -> Range:
        parts = parse_map(text)
        if len(parts) != 2:
            raise ExprSyntaxError(f"expected 'lo, hi', found {text!r}")
        return Range(*parts)


@irdl_op_definition
class KernelOp(IRDLOperation):
    """A kernel: for every point of ``grid``, run the body.

    Block arguments are memories; the last ``outputs`` of them are written.  ``grid`` extents use sizes only.
    The last ``sequential`` grid dimensions run in order, one after the other, within one task; tasks are
    independent of each other and never write the same element.
    """

    name = "tile.kernel"
    sym_name = prop_def(SymbolNameConstraint())
    arg_names = prop_def(ArrayAttr[StringAttr])
    outputs = prop_def(IntAttr)
    grid = prop_def(DimsAttr)
    sequential = prop_def(IntAttr)
    rows = prop_def(AxisAttr)
    body = region_def("single_block")

    traits = traits_def(IsolatedFromAbove(), SymbolOpInterface(), NoTerminator())

    def __init__(
        self,
        name: str,
        arg_names: Sequence[str],
        arg_types: Sequence[MemType],
        outputs: int,
        grid: Sequence[Dim],
        rows: Axis,
        attributes: dict[str, Attribute] | None = None,
        sequential: int = 0,
    ):
        super().__init__(
            properties={
                "sym_name": StringAttr(name),
                "sequential": IntAttr(sequential),
                "arg_names": ArrayAttr(strings(arg_names)),
                "outputs": IntAttr(outputs),
                "grid": DimsAttr(tuple(grid)),
                "rows": AxisAttr(rows),
            },
            attributes=attributes or {},
            regions=[syntax.argument_region(arg_names, arg_types)],
        )

    @property
    def args(self) -> Sequence[SSAValue]:
        return self.body.block.args

    @property
    def names(self) -> list[str]:
        return [a.data for a in self.arg_names]

    @property
    def zeroed(self) -> list[int]:
        """Which arguments start at zero: the outputs that are added to, and those that no store is left for."""
        stores = [op for op in self.body.walk() if isinstance(op, StoreOp)]
        added, stored = ({op.memory for op in stores if (op.add is not None) == add} for add in (True, False))
        added |= {op.memory for op in self.body.walk() if isinstance(op, BandAddOp)}
        outputs = list(enumerate(self.args))[-self.outputs.data :]
        return [n for n, arg in outputs if arg in added or arg not in stored]

    @property
    def size_names(self) -> list[str]:
        """Size symbols that the kernel reads, sorted: its integer parameters."""
        bound = {d.name for d in self.grid.data} | {self.rows.data.name}
        used: set[str] = set()
        for e in (d.extent for d in self.grid.data):
            used |= free_vars(e)
        used |= free_vars(self.rows.data.base) | free_vars(self.rows.data.bound)
        for op in self.body.walk():
            used |= op_vars(op)
            if isinstance(op, ForOp):
                bound.add(op.axis.data)
            for value in (*op.operands, *op.results):  # axes, those of features among them
                bound |= set(value.type.shape) if isinstance(value.type, TileType) else set()
        return sorted(used - bound)

    def verify_(self) -> None:
        if len(self.names) != len(self.args):
            raise VerifyException(f"tile.kernel has {len(self.args)} arguments but {len(self.names)} names")
        if not 0 < self.outputs.data <= len(self.args):
            raise VerifyException(f"tile.kernel writes {self.outputs.data} of {len(self.args)} arguments")
        if not 0 <= self.sequential.data <= len(self.grid.data):
            raise VerifyException(
                f"tile.kernel: {self.sequential.data} of {len(self.grid.data)} grid dimensions in order"
            )
        dims = {d.name for d in self.grid.data}
        for d in self.grid.data:
            if free_vars(d.extent) & dims:
                raise VerifyException(f"tile.kernel: the extent of {d} may use sizes only")
        for arg in self.args:
            if not isinstance(arg.type, MemType):
                raise VerifyException(f"tile.kernel takes memories, found an argument of type {arg.type}")
        for op in self.body.walk():
            for load in (load for e in op_exprs(op) for load in loads(e)):
                rank = {n: memory_type(a).rank.data for n, a in zip(self.names, self.args, strict=True)}.get(
                    load.tensor
                )
                if rank != len(load.index):
                    raise VerifyException(
                        f"{op.name} reads {load}, but the kernel has no argument {load.tensor} of that rank{where(op)}"
                    )

    def print(self, printer: Printer) -> None:
        lines = syntax.Lines(printer)
        lines.text(" ")
        printer.print_symbol_name(self.sym_name.data)
        syntax.print_arguments(printer, self.args, self.names)
        lines.text(f" outputs {self.outputs.data}")
        with lines.indented():
            lines.new("grid ").literal(self.grid.text())
            if self.sequential.data:
                lines.text(f" sequential {self.sequential.data}")
            lines.text(" rows ").literal(self.rows.text())
        printer.print_op_attributes(self.attributes, print_keyword=True)
        lines.text(" ")
        printer.print_region(self.body, print_entry_block_args=False, print_empty_block=False)

    @classmethod
    def parse(cls, parser: Parser) -> KernelOp:
        name = parser.parse_symbol_name()
        args, names = syntax.parse_arguments(parser)
        parser.parse_keyword("outputs")
        outputs = parser.parse_integer()
        parser.parse_keyword("grid")
        grid = DimsAttr.parse_text(parser)
        sequential = parser.parse_integer() if parser.parse_optional_keyword("sequential") else 0
        parser.parse_keyword("rows")
        rows = AxisAttr.parse_text(parser)
        attributes = parser.parse_optional_attr_dict_with_keyword()
        body = parser.parse_region(args)
        op = KernelOp.__new__(KernelOp)
        IRDLOperation.__init__(
            op,
            properties={
                "sym_name": name,
                "arg_names": ArrayAttr(strings(names)),
                "outputs": IntAttr(outputs),
                "grid": grid,
                "sequential": IntAttr(sequential),
                "rows": rows,
            },
            attributes=attributes.data if attributes else {},
            regions=[body],
        )
        return op


@irdl_op_definition
class LaunchOp(IRDLOperation):
    """Run a kernel from an ``attn.func``: operands are its inputs, results the tensors it writes."""

    name = "tile.launch"
    kernel = prop_def(SymbolRefAttr)
    inputs = var_operand_def(TensorType)
    outputs = var_result_def(TensorType)
    assembly_format = "$kernel `(` $inputs `)` attr-dict `:` functional-type($inputs, $outputs)"

    def __init__(self, kernel: str, inputs: Sequence[SSAValue], result_types: Sequence[Attribute]):
        super().__init__(properties={"kernel": SymbolRefAttr(kernel)}, operands=[inputs], result_types=[result_types])


@irdl_op_definition
class FullOp(IRDLOperation):
    """A tile filled with one number."""

    name = "tile.full"
    value = prop_def(LambdaAttr)
    result = result_def(TileType)
    assembly_format = "$value attr-dict `:` type($result)"

    def __init__(self, value: Expr, type: TileType):
        super().__init__(properties={"value": LambdaAttr(Lambda((), value))}, result_types=[type])


@irdl_op_definition
class LoadOp(IRDLOperation):
    """Read a tile: element ``memory[index]`` for each point of the axes.

    The result's axes are ``i``, a loop's axis, or a feature axis ``d``/``e`` that counts from 0.
    """

    name = "tile.load"
    memory = operand_def(MemType)
    index = prop_def(MapAttr)
    result = result_def(TileType)
    assembly_format = "$memory `at` $index attr-dict `:` type($memory) `->` type($result)"

    def __init__(self, memory: SSAValue, index: Sequence[Expr], type: TileType):
        super().__init__(operands=[memory], properties={"index": MapAttr(tuple(index))}, result_types=[type])

    def verify_(self) -> None:
        _check_index(self, self.memory, self.index.data)


@irdl_op_definition
class StoreOp(IRDLOperation):
    """Write the live part of a tile, converted to the memory's element type.

    With ``add``, it is added to what is there, and elements of the tile that share an index are all added; the
    memory starts at zero.  An index outside of the memory, as pairs have that a mask took away, is skipped.
    """

    name = "tile.store"
    value = operand_def(TileType)
    memory = operand_def(MemType)
    index = prop_def(MapAttr)
    add = opt_prop_def(UnitAttr)
    assembly_format = "$value `,` $memory `at` $index (`add` $add^)? attr-dict `:` type($value) `->` type($memory)"

    def __init__(self, value: SSAValue, memory: SSAValue, index: Sequence[Expr], *, add: bool = False):
        super().__init__(
            operands=[value, memory],
            properties={"index": MapAttr(tuple(index)), **({"add": UnitAttr()} if add else {})},
        )

    def verify_(self) -> None:
        _check_index(self, self.memory, self.index.data)


@irdl_op_definition
class DotOp(IRDLOperation):
    """Contract the axes that both operands have and the result lacks, accumulating in the result's type.

    With an accumulator, it is added: ``acc + lhs . rhs``.
    """

    name = "tile.dot"
    lhs = operand_def(TileType)
    rhs = operand_def(TileType)
    acc = opt_operand_def(TileType)
    result = result_def(TileType)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    assembly_format = (
        "$lhs `,` $rhs (`acc` $acc^)? attr-dict `:` type($lhs) `,` type($rhs) (`,` type($acc)^)? `->` type($result)"
    )

    def __init__(self, lhs: SSAValue, rhs: SSAValue, type: TileType, acc: SSAValue | None = None):
        super().__init__(operands=[lhs, rhs, acc], result_types=[type])

    @property
    def contracted(self) -> str:
        """The axis summed over."""
        (axis,) = (a for a in tile_type(self.lhs).shape if a not in tile_type(self.result).shape)
        return axis

    def verify_(self) -> None:
        lhs, rhs, out = (tile_type(v).shape for v in (self.lhs, self.rhs, self.result))
        shared = [a for a in lhs if a in rhs]
        rest = {a: n for a, n in (lhs | rhs).items() if a not in shared}
        if len(shared) != 1 or lhs[shared[0]] != rhs[shared[0]] or out != rest:
            raise VerifyException(
                f"tile.dot: operands {_shape(lhs)} and {_shape(rhs)} must share the one axis that "
                f"the result {_shape(out)} lacks{where(self)}"
            )
        if self.acc is not None and self.acc.type != self.result.type:
            raise VerifyException(f"tile.dot: accumulator {self.acc.type} differs from result {self.result.type}")


@irdl_op_definition
class BandDotOp(IRDLOperation):
    """Contract a tile with elements of a memory that are read for each pair: ``sum over d of q[i, d] * r[i - j, d]``.

    The memory is read at every point of the axes of both tiles; what ``lhs`` has and the result lacks is summed.  With
    an accumulator, it is added.  The index may lie outside of the memory for pairs that a mask takes away.
    """

    name = "tile.band_dot"
    lhs = operand_def(TileType)
    memory = operand_def(MemType)
    acc = opt_operand_def(TileType)
    index = prop_def(MapAttr)
    result = result_def(TileType)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    assembly_format = (
        "$lhs `,` $memory `at` $index (`acc` $acc^)? attr-dict `:` type($lhs) `,` type($memory) (`,` type($acc)^)? "
        "`->` type($result)"
    )

    def __init__(
        self, lhs: SSAValue, memory: SSAValue, index: Sequence[Expr], type: TileType, acc: SSAValue | None = None
    ):
        super().__init__(operands=[lhs, memory, acc], properties={"index": MapAttr(tuple(index))}, result_types=[type])

    @property
    def contracted(self) -> str:
        """The axis summed over."""
        (axis,) = (a for a in tile_type(self.lhs).shape if a not in tile_type(self.result).shape)
        return axis

    def verify_(self) -> None:
        _check_index(self, self.memory, self.index.data)
        lhs, out = tile_type(self.lhs).shape, tile_type(self.result).shape
        if len(lhs) != 2 or len(out) != 2 or len(lhs.keys() & out.keys()) != 1:
            raise VerifyException(f"tile.band_dot: {_shape(lhs)} and {_shape(out)} must share one axis{where(self)}")
        if self.acc is not None and self.acc.type != self.result.type:
            raise VerifyException(f"tile.band_dot: accumulator {self.acc.type} differs from {self.result.type}")


@irdl_op_definition
class BandAddOp(IRDLOperation):
    """Add ``pairs[i, j] * lhs[i, d]`` to ``memory[index]`` for every ``i``, ``j`` and ``d`` that is live.

    The memory starts at zero.  An index outside of it, as pairs have that a mask took away, is skipped.
    """

    name = "tile.band_add"
    pairs = operand_def(TileType)
    lhs = operand_def(TileType)
    memory = operand_def(MemType)
    index = prop_def(MapAttr)
    assembly_format = (
        "$pairs `,` $lhs `,` $memory `at` $index attr-dict `:` type($pairs) `,` type($lhs) `->` type($memory)"
    )

    def __init__(self, pairs: SSAValue, lhs: SSAValue, memory: SSAValue, index: Sequence[Expr]):
        super().__init__(operands=[pairs, lhs, memory], properties={"index": MapAttr(tuple(index))})

    def verify_(self) -> None:
        _check_index(self, self.memory, self.index.data)
        pairs, lhs = tile_type(self.pairs).shape, tile_type(self.lhs).shape
        if len(pairs) != 2 or len(lhs) != 2 or len(lhs.keys() & pairs.keys()) != 1:
            raise VerifyException(f"tile.band_add: {_shape(pairs)} and {_shape(lhs)} must share one axis{where(self)}")


@irdl_op_definition
class MapOp(IRDLOperation):
    """An elementwise function; operands broadcast by axis name and bind the lambda's parameters in order.

    Free names are axes (global index of the element), grid dimensions and sizes.
    """

    name = "tile.map"
    function = prop_def(LambdaAttr)
    inputs = var_operand_def(TileType)
    result = result_def(TileType)
    assembly_format = "$function `(` $inputs `)` attr-dict `:` functional-type($inputs, $result)"

    def __init__(self, function: Lambda, inputs: Sequence[SSAValue], type: TileType):
        super().__init__(properties={"function": LambdaAttr(function)}, operands=[inputs], result_types=[type])

    def verify_(self) -> None:
        params = self.function.data.params
        if len(params) != len(self.inputs):
            raise VerifyException(
                f"tile.map: {len(self.inputs)} operands for parameters {', '.join(params)}{where(self)}"
            )
        out = tile_type(self.result).shape
        for value in self.inputs:
            shape = tile_type(value).shape
            if not shape.items() <= out.items():
                raise VerifyException(
                    f"tile.map: operand {_shape(shape)} does not broadcast to {_shape(out)}{where(self)}"
                )


@irdl_op_definition
class MaskOp(IRDLOperation):
    """``input`` where ``condition`` holds, else -inf: the pairs that do not attend."""

    name = "tile.mask"
    input = operand_def(TileType)
    condition = prop_def(ExprAttr)
    result = result_def(TileType)
    assembly_format = "$input `where` $condition attr-dict `:` type($input) `->` type($result)"

    def __init__(self, input: SSAValue, condition: Expr):
        super().__init__(operands=[input], properties={"condition": ExprAttr(condition)}, result_types=[input.type])

    def verify_(self) -> None:
        if kind_of(self.condition.data) != "bool":
            raise VerifyException(f"tile.mask needs a condition, found {self.condition.data}{where(self)}")


@irdl_op_definition
class ReduceOp(IRDLOperation):
    """Reduce one axis with ``max`` or ``sum``; over no live element that is -inf or 0."""

    name = "tile.reduce"
    kind = prop_def(StringAttr)
    input = operand_def(TileType)
    result = result_def(TileType)
    assembly_format = "$kind $input attr-dict `:` type($input) `->` type($result)"

    def __init__(self, kind: str, input: SSAValue, type: TileType):
        super().__init__(properties={"kind": StringAttr(kind)}, operands=[input], result_types=[type])

    @property
    def axis(self) -> str:
        (axis,) = (a for a in tile_type(self.input).shape if a not in tile_type(self.result).shape)
        return axis

    def verify_(self) -> None:
        if self.kind.data not in ("max", "sum"):
            raise VerifyException(f"tile.reduce: {self.kind.data!r} is not max or sum{where(self)}")
        source, out = tile_type(self.input).shape, tile_type(self.result).shape
        if len(source) != len(out) + 1 or not out.items() <= source.items():
            raise VerifyException(f"tile.reduce: {_shape(source)} to {_shape(out)} must drop one axis{where(self)}")


@irdl_op_definition
class ForOp(IRDLOperation):
    """A loop over key ranges, in order, ``step`` keys at a time, with carried tiles.

    ``kind`` is ``partial`` where pairs may be dead, ``full`` where all are live (the body needs no mask).
    """

    name = "tile.for"
    axis = prop_def(StringAttr)
    kind = prop_def(StringAttr)
    step = prop_def(IntAttr)
    ranges = prop_def(ArrayAttr[RangeAttr])
    initial = var_operand_def(TileType)
    results_ = var_result_def(TileType)
    body = region_def("single_block")

    def __init__(
        self,
        axis: str,
        kind: str,
        step: int,
        ranges: Sequence[Range],
        initial: Sequence[SSAValue],
        body: Region,
        attributes: dict[str, Attribute] | None = None,
    ):
        super().__init__(
            properties={
                "axis": StringAttr(axis),
                "kind": StringAttr(kind),
                "step": IntAttr(step),
                "ranges": ArrayAttr([RangeAttr(r) for r in ranges]),
            },
            attributes=attributes or {},
            operands=[initial],
            result_types=[[v.type for v in initial]],
            regions=[body],
        )

    @property
    def carried(self) -> Sequence[SSAValue]:
        """The carried tiles inside the body."""
        return self.body.block.args

    @property
    def range_list(self) -> list[Range]:
        return [r.data for r in self.ranges]

    def verify_(self) -> None:
        if self.kind.data not in ("full", "partial"):
            raise VerifyException(f"tile.for: kind {self.kind.data!r} is not full or partial{where(self)}")
        if self.step.data <= 0:
            raise VerifyException(f"tile.for: step {self.step.data} is not positive{where(self)}")
        last = self.body.block.last_op
        types = [v.type for v in self.initial]
        if not isinstance(last, YieldOp) or [v.type for v in last.values] != types:
            raise VerifyException(f"tile.for must end in tile.yield of its {len(types)} carried types{where(self)}")
        if [a.type for a in self.body.block.args] != types:
            raise VerifyException(f"tile.for: carried arguments differ in type from their initial values{where(self)}")

    def print(self, printer: Printer) -> None:
        lines = syntax.Lines(printer)
        lines.text(f" {self.axis.data} in [")
        printer.print_list(self.ranges, lambda r: printer.print_string_literal(r.text()))
        lines.text(f"] step {self.step.data} {self.kind.data} carry (")
        printer.print_list(
            zip(self.body.block.args, self.initial, strict=True),
            lambda pair: lines.value(pair[0]).text(" = ").value(pair[1]),
        )
        lines.text(") : (").types(self.initial).text(")")
        printer.print_op_attributes(self.attributes, print_keyword=True)
        lines.text(" ")
        printer.print_region(self.body, print_entry_block_args=False, print_empty_block=False)

    @classmethod
    def parse(cls, parser: Parser) -> ForOp:
        axis = parser.parse_identifier()
        parser.parse_keyword("in")
        ranges = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, lambda: RangeAttr.parse_text(parser).data)
        parser.parse_keyword("step")
        step = parser.parse_integer()
        kind = parser.parse_identifier()
        parser.parse_keyword("carry")

        def pair() -> tuple[Parser.UnresolvedArgument, UnresolvedOperand]:
            arg = parser.parse_argument(expect_type=False)
            parser.parse_punctuation("=")
            return arg, parser.parse_unresolved_operand()

        pairs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, pair)
        parser.parse_punctuation(":")
        types = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_type)
        attributes = parser.parse_optional_attr_dict_with_keyword()
        initial = parser.resolve_operands([p[1] for p in pairs], types, parser.pos)
        body = parser.parse_region([p[0].resolve(t) for p, t in zip(pairs, types, strict=True)])
        return ForOp(axis, kind, step, ranges, initial, body, dict(attributes.data) if attributes else None)


@irdl_op_definition
class YieldOp(IRDLOperation):
    """End of a loop body: the carried tiles of the next iteration."""

    name = "tile.yield"
    values = var_operand_def(TileType)
    traits = traits_def(IsTerminator())
    assembly_format = "$values attr-dict `:` type($values)"

    def __init__(self, values: Sequence[SSAValue]):
        super().__init__(operands=[values])


def tile_type(value: SSAValue) -> TileType:
    """The type of a value that must be a tile."""
    if not isinstance(value.type, TileType):
        raise VerifyException(f"expected a value of type !tile.tile, found {value.type}")
    return value.type


def memory_type(value: SSAValue) -> MemType:
    """The type of a value that must be a memory."""
    if not isinstance(value.type, MemType):
        raise VerifyException(f"expected a value of type !tile.mem, found {value.type}")
    return value.type


def op_exprs(op: Operation) -> list[Expr]:
    """The expressions that an op of this dialect evaluates."""
    match op:
        case MapOp():
            return [op.function.data.body]
        case MaskOp():
            return [op.condition.data]
        case LoadOp() | StoreOp() | BandDotOp() | BandAddOp():
            return list(op.index.data)
        case ForOp():
            return [e for r in op.range_list for e in (r.lo, r.hi)]
    return []


def op_vars(op: Operation) -> set[str]:
    """Integer variables that an op's expressions use."""
    params = set(op.function.data.params) if isinstance(op, MapOp) else set()
    return set().union(*(free_vars(e) for e in op_exprs(op))) - params


def _check_index(op: Operation, memory: SSAValue, index: Sequence[Expr]) -> None:
    rank = memory_type(memory).rank.data
    if len(index) != rank:
        raise VerifyException(f"{op.name}: {len(index)} index expressions for a memory of rank {rank}{where(op)}")


def _shape(shape: Mapping[str, int]) -> str:
    return "<" + ", ".join(f"{a}:{n}" for a, n in shape.items()) + ">"


def kernels_of(module: Operation) -> dict[str, KernelOp]:
    """The kernels of a module by name."""
    return {op.sym_name.data: op for op in module.walk() if isinstance(op, KernelOp)}


Tile = Dialect(
    "tile",
    [KernelOp, LaunchOp, FullOp, LoadOp, StoreOp, DotOp, BandDotOp, BandAddOp, MapOp, MaskOp, ReduceOp, ForOp, YieldOp],
    [MemType, TileType, AxisAttr, RangeAttr],
)
