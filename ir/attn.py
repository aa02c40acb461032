"""Dialect ``attn``: what is computed.

Values are tensors whose sizes are expressions over named sizes.  ``attn.attend`` is the one attention op:
an iteration domain whose last dimension is the query row, index maps that say which element of each tensor
a point of the domain reads or writes, and per source of keys a mask and a score.  Rolls, window partitions,
residue classes and head groups are all index maps, so a pass that reorders tokens only rewrites maps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from xdsl.dialects.builtin import ArrayAttr, IntAttr, StringAttr, SymbolNameConstraint
from xdsl.ir import Attribute, Dialect, Operation, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import (
    AttrSizedOperandSegments,
    BaseAttr,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    param_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.traits import IsolatedFromAbove, IsTerminator, Pure, SymbolOpInterface

from . import syntax
from .attributes import Dim, DimsAttr, ExprAttr, LambdaAttr, MapAttr, TextData, strings, where
from .expr import TRUE, Expr, Lambda, Var, free_vars, kind_of, loads, map_text, parse_lambda
from .syntax import VerifyException

__all__ = ["AttendOp", "Attn", "CallOp", "FuncOp", "ReorderOp", "ReturnOp", "Source", "SourceAttr", "TensorType"]


@irdl_attr_definition
class TensorType(ParametrizedAttribute, TypeAttribute):
    """A tensor; each size is an expression over size symbols: ``!attn.tensor<"B, H, N, 64", f32>``."""

    name = "attn.tensor"
    sizes: MapAttr = param_def(BaseAttr(MapAttr))
    element: Attribute = param_def()

    @staticmethod
    def of(sizes: Sequence[Expr], element: Attribute) -> TensorType:
        return TensorType(MapAttr(tuple(sizes)), element)

    @property
    def shape(self) -> tuple[Expr, ...]:
        return self.sizes.data

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            sizes = MapAttr.parse_text(parser)
            parser.parse_punctuation(",")
            return [sizes, parser.parse_type()]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(self.sizes.text())
            printer.print_string(", ")
            printer.print_attribute(self.element)


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """One set of keys that a query attends to.

    ``key`` is the name of the key variable and runs over ``[0, extent)``; ``key_map`` uses the domain's
    dimensions except the query row, ``key`` and ``d``; ``value_map`` the same with ``e``.  ``mask`` says
    which pairs are live and ``score`` maps ``dot`` (the inner product) to the score; both may use the whole
    domain, ``key``, sizes and captured tensors.
    """

    key: str
    extent: Expr
    key_map: tuple[Expr, ...]
    value_map: tuple[Expr, ...]
    mask: Expr = TRUE
    score: Lambda = parse_lambda("lambda dot: dot")

    def __str__(self) -> str:
        parts = (f"{self.key} < {self.extent}", map_text(self.key_map), map_text(self.value_map), self.mask, self.score)
        return "; ".join(str(p) for p in parts)


@irdl_attr_definition
class SourceAttr(TextData[Source]):
    """A :class:`Source`; the key and value tensors are operands of the op."""

    name = "attn.source"

    @classmethod
    def read(cls, text: str) -> Source:
        dim, key_map, value_map, mask, score = (part.strip() for part in text.split(";"))
        (d,) = DimsAttr.read(dim)
        return Source(
            d.name,
            d.extent,
            MapAttr.read(key_map),
            MapAttr.read(value_map),
            ExprAttr.read(mask),
            LambdaAttr.read(score),
        )


@irdl_attr_definition
class TilesAttr(TextData[tuple[int, int]]):
    """Queries and keys per tile, chosen by ``choose-tiles``."""

    name = "attn.tiles"

    def text(self) -> str:
        return f"{self.data[0]} x {self.data[1]}"

    @classmethod
    def read(cls, text: str) -> tuple[int, int]:
        rows, keys = text.split("x")
        return int(rows), int(keys)


@irdl_op_definition
class FuncOp(IRDLOperation):
    """A compiled function: a straight-line graph of attention and calls.

    A size symbol is bound by the first argument dimension whose size is that symbol alone.  ``guards`` are
    facts about sizes that the compilation relied on.
    """

    name = "attn.func"
    sym_name = prop_def(SymbolNameConstraint())
    arg_names = prop_def(ArrayAttr[StringAttr])
    guards = prop_def(ArrayAttr[ExprAttr])
    body = region_def("single_block")

    traits = traits_def(IsolatedFromAbove(), SymbolOpInterface())

    def __init__(
        self, name: str, arg_names: Sequence[str], arg_types: Sequence[TensorType], guards: Sequence[Expr] = ()
    ):
        super().__init__(
            properties={
                "sym_name": StringAttr(name),
                "arg_names": ArrayAttr(strings(arg_names)),
                "guards": ArrayAttr([ExprAttr(g) for g in guards]),
            },
            regions=[syntax.argument_region(arg_names, arg_types)],
        )

    @property
    def args(self) -> Sequence[SSAValue]:
        return self.body.block.args

    @property
    def names(self) -> list[str]:
        return [a.data for a in self.arg_names]

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Size symbol -> (argument, axis) that binds it."""
        bound: dict[str, tuple[int, int]] = {}
        for a, arg in enumerate(self.args):
            for axis, size in enumerate(tensor_type(arg).shape):
                if isinstance(size, Var):
                    bound.setdefault(size.name, (a, axis))
        return bound

    @property
    def facts(self) -> tuple[Expr, ...]:
        """The guards about sizes that still have a name; the others hold by the way the types are written."""
        bound = self.sizes().keys()
        return tuple(g.data for g in self.guards if free_vars(g.data) <= bound)

    def verify_(self) -> None:
        if len(self.names) != len(self.args):
            raise VerifyException(f"attn.func has {len(self.args)} arguments but {len(self.names)} names")
        bound = set(self.sizes())
        for op in self.body.block.ops:
            for value in op.results:
                if isinstance(value.type, TensorType):
                    if isinstance(op, CallOp):
                        bound.update(s.name for s in value.type.shape if isinstance(s, Var))
                    loose = set().union(*(free_vars(s) for s in value.type.shape)) - bound
                    if loose:
                        raise VerifyException(
                            f"{op.name} gives a tensor of sizes {value.type.sizes.text()}, but no argument has a "
                            f"dimension of size {', '.join(sorted(loose))} to bind it{where(op)}"
                        )
        if not isinstance(self.body.block.last_op, ReturnOp):
            raise VerifyException("attn.func must end in attn.return")

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_symbol_name(self.sym_name.data)
        syntax.print_arguments(printer, self.args, self.names)
        if self.guards.data:
            printer.print_string(" guards [")
            printer.print_list(self.guards, lambda g: printer.print_string_literal(g.text()))
            printer.print_string("]")
        printer.print_op_attributes(self.attributes, print_keyword=True)
        printer.print_string(" ")
        printer.print_region(self.body, print_entry_block_args=False, print_empty_block=False)

    @classmethod
    def parse(cls, parser: Parser) -> FuncOp:
        name = parser.parse_symbol_name()
        args, names = syntax.parse_arguments(parser)
        guards: list[ExprAttr] = []
        if parser.parse_optional_keyword("guards"):
            guards = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, lambda: ExprAttr.parse_text(parser))
        attributes = parser.parse_optional_attr_dict_with_keyword()
        body = parser.parse_region(args)
        op = FuncOp.__new__(FuncOp)
        IRDLOperation.__init__(
            op,
            properties={
                "sym_name": name,
                "arg_names": ArrayAttr(strings(names)),
                "guards": ArrayAttr(guards),
            },
            attributes=attributes.data if attributes else {},
            regions=[body],
        )
        return op


@irdl_op_definition
class ReturnOp(IRDLOperation):
    name = "attn.return"
    values = var_operand_def(TensorType)
    traits = traits_def(IsTerminator())
    assembly_format = "$values attr-dict `:` type($values)"

    def __init__(self, values: Sequence[SSAValue]):
        super().__init__(operands=[values])


@irdl_op_definition
class CallOp(IRDLOperation):
    """A call to PyTorch, for all that is not attention.

    ``call`` is Python text over the operands ``x0, x1, ...``, size names and ``device`` (that of the
    function's first tensor), built from literals, tuples, lists and attribute paths of ``torch``:
    ``torch.mean(x0, dim=-2)``.  A result dimension that is a new size symbol is bound when the call returns.
    """

    name = "attn.call"
    call = prop_def(StringAttr)
    inputs = var_operand_def(TensorType)
    outputs = var_result_def(TensorType)
    assembly_format = "$call `(` $inputs `)` attr-dict `:` functional-type($inputs, $outputs)"

    def __init__(self, call: str, inputs: Sequence[SSAValue], result_types: Sequence[TensorType]):
        super().__init__(properties={"call": StringAttr(call)}, operands=[inputs], result_types=[result_types])


@irdl_op_definition
class ReorderOp(IRDLOperation):
    """A bijective rearrangement: ``output[x0, x1, ...] = input[index(x0, x1, ...)]``.

    ``inverse`` maps the input's index (again named ``x0, x1, ...``) to the output's.
    """

    name = "attn.reorder"
    input = operand_def(TensorType)
    index = prop_def(MapAttr)
    inverse = prop_def(MapAttr)
    output = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = "$input `index` $index `inverse` $inverse attr-dict `:` type($input) `->` type($output)"

    def __init__(self, input: SSAValue, index: Sequence[Expr], inverse: Sequence[Expr], result_type: TensorType):
        super().__init__(
            operands=[input],
            properties={"index": MapAttr(tuple(index)), "inverse": MapAttr(tuple(inverse))},
            result_types=[result_type],
        )

    def verify_(self) -> None:
        ranks = len(tensor_type(self.input).shape), len(tensor_type(self.output).shape)
        if (len(self.index.data), len(self.inverse.data)) != ranks:
            raise VerifyException(
                f"attn.reorder from rank {ranks[0]} to rank {ranks[1]} has an index of {len(self.index.data)} "
                f"and an inverse of {len(self.inverse.data)} expressions{where(self)}"
            )


@irdl_op_definition
class AttendOp(IRDLOperation):
    """Attention over an iteration domain.

    For every point of ``dims`` (the last dimension is the query row ``i``) and every feature ``e``::

        score[s, j] = source[s].score(sum_d query[query_map] * key_s[key_map])   where source[s].mask, else -inf
        p           = softmax of score over all sources' keys together
        out[out_map] = sum over s, j of p[s, j] * value_s[value_map]
        lse[lse_map] = log(sum over s, j of exp(score[s, j]))

    A row without a live key gives ``out = 0`` and ``lse = -inf``.  ``out_map`` and ``lse_map`` are bijections
    from the domain (with ``e``) to the results' indices.
    """

    name = "attn.attend"
    query = operand_def(TensorType)
    keys = var_operand_def(TensorType)
    values = var_operand_def(TensorType)
    captures = var_operand_def(TensorType)

    dims = prop_def(DimsAttr)
    query_map = prop_def(MapAttr)
    sources = prop_def(ArrayAttr[SourceAttr])
    capture_names = prop_def(ArrayAttr[StringAttr])
    out_map = prop_def(MapAttr)
    lse_map = prop_def(MapAttr)
    width = prop_def(IntAttr)
    value_width = prop_def(IntAttr)
    normaliser = prop_def(StringAttr)
    tiles = opt_prop_def(TilesAttr)

    out = result_def(TensorType)
    lse = result_def(TensorType)

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(Pure())

    def __init__(
        self,
        query: SSAValue,
        keys: Sequence[SSAValue],
        values: Sequence[SSAValue],
        captures: dict[str, SSAValue],
        *,
        dims: Sequence[Dim],
        query_map: Sequence[Expr],
        sources: Sequence[Source],
        out_map: Sequence[Expr],
        lse_map: Sequence[Expr],
        width: int,
        value_width: int,
        out_type: Attribute,
        lse_type: Attribute,
        normaliser: str = "softmax",
        tiles: tuple[int, int] | None = None,
        attributes: dict[str, Attribute] | None = None,
    ):
        super().__init__(
            operands=[query, keys, values, list(captures.values())],
            properties={
                "dims": DimsAttr(tuple(dims)),
                "query_map": MapAttr(tuple(query_map)),
                "sources": ArrayAttr([SourceAttr(s) for s in sources]),
                "capture_names": ArrayAttr(strings(captures)),
                "out_map": MapAttr(tuple(out_map)),
                "lse_map": MapAttr(tuple(lse_map)),
                "width": IntAttr(width),
                "value_width": IntAttr(value_width),
                "normaliser": StringAttr(normaliser),
                **({"tiles": TilesAttr(tiles)} if tiles else {}),
            },
            attributes=attributes or {},
            result_types=[out_type, lse_type],
        )

    @property
    def domain(self) -> tuple[Dim, ...]:
        return self.dims.data

    @property
    def source_list(self) -> list[Source]:
        return [s.data for s in self.sources]

    @property
    def captured(self) -> dict[str, SSAValue]:
        """Captured tensors by the name that masks and scores use."""
        return dict(zip((n.data for n in self.capture_names), self.captures, strict=True))

    def rebuilt(self, **changes: object) -> AttendOp:
        """A new op with some of ``__init__``'s arguments changed; the user's line is kept."""
        args: dict[str, object] = {
            "query": self.query,
            "keys": self.keys,
            "values": self.values,
            "captures": self.captured,
            "dims": self.domain,
            "query_map": self.query_map.data,
            "sources": self.source_list,
            "out_map": self.out_map.data,
            "lse_map": self.lse_map.data,
            "width": self.width.data,
            "value_width": self.value_width.data,
            "out_type": self.out.type,
            "lse_type": self.lse.type,
            "normaliser": self.normaliser.data,
            "tiles": self.tiles.data if self.tiles else None,
            "attributes": dict(self.attributes),
        }
        new = AttendOp(**{**args, **changes})  # type: ignore[arg-type]
        new.out.name_hint, new.lse.name_hint = self.out.name_hint, self.lse.name_hint
        return new

    def verify_(self) -> None:
        problems: list[str] = []
        sources, keys, values = len(self.sources), len(self.keys), len(self.values)
        if not (sources == keys == values):
            problems.append(f"{sources} sources need as many keys and values, found {keys} and {values}")
        if not self.domain:
            problems.append("the domain is empty; it needs at least the query row")
        if len(self.capture_names) != len(self.captures):
            problems.append(f"{len(self.captures)} captured tensors but {len(self.capture_names)} names")
        if self.normaliser.data != "softmax":
            problems.append(f"normaliser {self.normaliser.data!r} is not known; known: softmax")
        if not problems:
            problems = list(self._map_problems())
        if problems:
            raise VerifyException(f"attn.attend{where(self)}: " + "; ".join(problems))

    def _map_problems(self) -> Iterator[str]:
        sizes = set().union(
            *(free_vars(s) for v in self.operands for s in tensor_type(v).shape),
            *(free_vars(s) for v in self.results for s in tensor_type(v).shape),
        )
        seen = set(sizes)
        for dim in self.domain:
            yield from _unknown(f"the extent of {dim.name}", [dim.extent], seen)
            seen.add(dim.name)
        row, batch = self.domain[-1].name, seen - {self.domain[-1].name}
        yield from _fits("the query", self.query_map.data, self.query, seen | {"d"})
        yield from _fits("the out", self.out_map.data, self.out, seen | {"e"})
        yield from _fits("the lse", self.lse_map.data, self.lse, seen)
        ranks = {name: len(tensor_type(v).shape) for name, v in self.captured.items()}
        for n, (source, key, value) in enumerate(zip(self.source_list, self.keys, self.values, strict=True)):
            at = f"source {n}: "
            yield from _unknown(f"{at}the extent", [source.extent], batch)
            names = batch | {source.key}
            yield from _fits(f"{at}the key", source.key_map, key, names | {"d"})
            yield from _fits(f"{at}the value", source.value_map, value, names | {"e"})
            names = names | {row}
            yield from _unknown(f"{at}the mask", [source.mask], names)
            yield from _unknown(f"{at}the score", [source.score.body], names | set(source.score.params))
            if source.score.params != ("dot",):
                yield f"{at}the score takes one argument, dot, found {', '.join(source.score.params) or 'none'}"
            if kind_of(source.mask) != "bool":
                yield f"{at}the mask must be a condition, found {source.mask}"
            for load in loads(source.mask) + loads(source.score.body):
                if load.tensor not in ranks:
                    yield f"{at}reads {load.tensor}, which is not among the captured tensors"
                elif len(load.index) != ranks[load.tensor]:
                    yield f"{at}reads {load} of a captured tensor of rank {ranks[load.tensor]}"

    def print(self, printer: Printer) -> None:
        lines = syntax.Lines(printer)
        lines.text(" over ").literal(self.dims.text())
        with lines.indented():
            lines.new("query ").element(self.query, self.query_map.text()).text(f" width {self.width.data}")
            for source, key, value in zip(self.source_list, self.keys, self.values, strict=True):
                lines.new("source ").literal(f"{source.key} < {source.extent}")
                lines.text(" key ").element(key, map_text(source.key_map))
                lines.text(" value ").element(value, map_text(source.value_map))
                lines.text(" mask ").literal(str(source.mask)).text(" score ").literal(str(source.score))
            for name, value in self.captured.items():
                lines.new(f"capture {name} = ").value(value)
            lines.new(f"normaliser {self.normaliser.data}")
            if self.tiles:
                lines.text(" tiles ").literal(self.tiles.text())
            lines.new("out ").literal(self.out_map.text()).text(f" width {self.value_width.data}")
            lines.text(" lse ").literal(self.lse_map.text())
            printer.print_op_attributes(self.attributes, print_keyword=True)
            lines.new(": (").types(self.operands).text(") -> (").types(self.results).text(")")

    @classmethod
    def parse(cls, parser: Parser) -> AttendOp:
        parser.parse_keyword("over")
        dims = DimsAttr.parse_text(parser)
        parser.parse_keyword("query")
        query, query_map = parser.parse_unresolved_operand(), MapAttr.parse_text(parser)
        parser.parse_keyword("width")
        width = parser.parse_integer()
        sources, keys, values = [], [], []
        while parser.parse_optional_keyword("source"):
            (dim,) = DimsAttr.parse_text(parser).data
            parser.parse_keyword("key")
            keys.append(parser.parse_unresolved_operand())
            key_map = MapAttr.parse_text(parser).data
            parser.parse_keyword("value")
            values.append(parser.parse_unresolved_operand())
            value_map = MapAttr.parse_text(parser).data
            parser.parse_keyword("mask")
            mask = ExprAttr.parse_text(parser).data
            parser.parse_keyword("score")
            score = LambdaAttr.parse_text(parser).data
            sources.append(Source(dim.name, dim.extent, key_map, value_map, mask, score))
        names, captures = [], []
        while parser.parse_optional_keyword("capture"):
            names.append(parser.parse_identifier())
            parser.parse_punctuation("=")
            captures.append(parser.parse_unresolved_operand())
        parser.parse_keyword("normaliser")
        normaliser = parser.parse_identifier()
        tiles = TilesAttr.parse_text(parser).data if parser.parse_optional_keyword("tiles") else None
        parser.parse_keyword("out")
        out_map = MapAttr.parse_text(parser).data
        parser.parse_keyword("width")
        value_width = parser.parse_integer()
        parser.parse_keyword("lse")
        lse_map = MapAttr.parse_text(parser).data
        attributes = parser.parse_optional_attr_dict_with_keyword()
        types, (out_type, lse_type) = syntax.parse_signature(parser, 2)
        operands = parser.resolve_operands([query, *keys, *values, *captures], types, parser.pos)
        n = len(keys)
        return AttendOp(
            operands[0],
            operands[1 : 1 + n],
            operands[1 + n : 1 + 2 * n],
            dict(zip(names, operands[1 + 2 * n :], strict=True)),
            dims=dims.data,
            query_map=query_map.data,
            sources=sources,
            out_map=out_map,
            lse_map=lse_map,
            width=width,
            value_width=value_width,
            out_type=out_type,
            lse_type=lse_type,
            normaliser=normaliser,
            tiles=tiles,
            attributes=dict(attributes.data) if attributes else {},
        )


def _unknown(what: str, exprs: Sequence[Expr], known: set[str]) -> Iterator[str]:
    loose = set().union(*(free_vars(e) for e in exprs)) - known
    if loose:
        yield f"{what} uses {', '.join(sorted(loose))}, which nothing there defines"


def _fits(what: str, index: Sequence[Expr], value: SSAValue, known: set[str]) -> Iterator[str]:
    rank = len(tensor_type(value).shape)
    if len(index) != rank:
        yield f"{what} map has {len(index)} expressions for a tensor of rank {rank}"
    yield from _unknown(f"{what} map", index, known)


def tensor_type(value: SSAValue) -> TensorType:
    """The type of a value that must be a tensor."""
    if not isinstance(value.type, TensorType):
        raise VerifyException(f"expected a value of type !attn.tensor, found {value.type}")
    return value.type


def func_of(module: Operation) -> FuncOp:
    """The one function of a module."""
    for op in module.walk():
        if isinstance(op, FuncOp):
            return op
    raise VerifyException("the module holds no attn.func")


Attn = Dialect(
    "attn",
    [FuncOp, ReturnOp, CallOp, ReorderOp, AttendOp],
    [TensorType, ExprAttr, LambdaAttr, MapAttr, DimsAttr, SourceAttr, TilesAttr],
)
