"""The ops of dialect ``attn`` that a derived gradient is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xdsl.dialects.builtin import ArrayAttr, IntAttr, StringAttr
from xdsl.ir import Attribute, Dialect, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import Pure

from . import syntax
from .attend import Attention, ParsedAttention
from .attn import AttendOp, CallOp, FuncOp, ReorderOp, ReturnOp
from .attributes import (
    Dim,
    DimsAttr,
    ExprAttr,
    LambdaAttr,
    MapAttr,
    SourceAttr,
    TensorType,
    TilesAttr,
    strings,
    tensor_type,
    where,
)
from .expr import Expr, free_vars, loads
from .syntax import VerifyException

__all__ = ["AttendGradientOp", "CallGradientOp", "ScatterOp"]


@irdl_op_definition
class AttendGradientOp(Attention):
    """The gradients of an :class:`AttendOp` with respect to the operands that ``wanted`` names.

    ``wanted`` holds ``query``, ``key0``, ``value0`` (the number is the source's) and ``capture:name``; each gives
    one result of that operand's type.  ``out`` and ``rows`` are the attention's :attr:`AttendOp.residuals`, ``rows``
    its weights where it has units and else its lse.  ``d_out`` and ``d_lse`` are the gradients of a scalar with respect
    to out and lse; at least one of the two is there.  A row without a live key passes no gradient on.
    """

    name = "attn.attend_gradient"
    out = operand_def(TensorType)
    rows = operand_def(TensorType)
    d_out = opt_operand_def(TensorType)
    d_lse = opt_operand_def(TensorType)
    wanted = prop_def(ArrayAttr[StringAttr])
    gradients = var_result_def(TensorType)

    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    def __init__(
        self,
        query: SSAValue,
        keys: Sequence[SSAValue],
        values: Sequence[SSAValue],
        captures: dict[str, SSAValue],
        *,
        out: SSAValue,
        rows: SSAValue,
        d_out: SSAValue | None,
        d_lse: SSAValue | None,
        wanted: Sequence[str],
        attributes: dict[str, Attribute] | None = None,
        **shape: Any,  # see Attention.shape_properties
    ):
        groups = {"query": [query], "keys": keys, "values": values, "captures": list(captures.values())}
        groups |= {"out": [out], "rows": [rows], "d_out": _optional(d_out), "d_lse": _optional(d_lse)}
        names = operand_names(len(keys), captures)
        by_name = dict(zip(names, [query, *keys, *values, *captures.values()], strict=True))
        super().__init__(
            # xDSL orders the operands of a class before those of its base
            operands=[groups[n] for n in ("out", "rows", "d_out", "d_lse", "query", "keys", "values", "captures")],
            properties={
                **Attention.shape_properties(captures=captures, **shape),
                "wanted": ArrayAttr(strings(wanted)),
            },
            attributes=attributes or {},
            result_types=[[by_name[w].type if w in by_name else query.type for w in wanted]],
        )

    @property
    def wanted_list(self) -> list[str]:
        return [w.data for w in self.wanted]

    @property
    def by_name(self) -> dict[str, SSAValue]:
        """What may be differentiated for, by the names that ``wanted`` uses."""
        return dict(
            zip(
                operand_names(len(self.keys), self.captured),
                [self.query, *self.keys, *self.values, *self.captures],
                strict=True,
            )
        )

    def rebuilt(self, **changes: object) -> AttendGradientOp:
        """A new op with some of ``__init__``'s arguments changed; the user's line is kept."""
        more = {
            "out": self.out,
            "rows": self.rows,
            "d_out": self.d_out,
            "d_lse": self.d_lse,
            "wanted": self.wanted_list,
        }
        new = AttendGradientOp(**{**self.arguments, **more, **changes})
        for old, result in zip(self.gradients, new.gradients, strict=False):
            result.name_hint = old.name_hint
        return new

    def verify_(self) -> None:
        index = self.weights_maps[0] if self.units else self.lse_map.data
        self.verify_attention(self.out, ("weights" if self.units else "lse", index, self.rows))
        known = operand_names(len(self.keys), self.captured)
        loose = [w for w in self.wanted_list if w not in known]
        if loose:
            raise VerifyException(f"{self.name}{where(self)} has no operand {loose[0]}; it has {', '.join(known)}")
        if self.d_out is None and self.d_lse is None:
            raise VerifyException(f"{self.name}{where(self)} needs the gradient of out, of lse, or both")
        if [v.type for v in self.gradients] != [self.by_name[w].type for w in self.wanted_list]:
            raise VerifyException(f"{self.name}{where(self)}: gradients must have the types of {self.wanted_list}")

    def print(self, printer: Printer) -> None:
        lines = syntax.Lines(printer)
        lines.text(" of ")
        printer.print_list(self.wanted_list, printer.print_string_literal)
        with lines.indented():
            self.print_attention(lines)
            lines.new("given ").value(self.out).text(", ").value(self.rows)
            for name, value in (("d_out", self.d_out), ("d_lse", self.d_lse)):
                if value is not None:
                    lines.text(f" {name} ").value(value)
            printer.print_op_attributes(self.attributes, print_keyword=True)
            operands = [self.query, *self.keys, *self.values, *self.captures, *self._given()]
            lines.new(": (").types(operands).text(") -> (").types(self.results).text(")")

    def _given(self) -> list[SSAValue]:
        return [self.out, self.rows, *_optional(self.d_out), *_optional(self.d_lse)]

    @classmethod
    def parse(cls, parser: Parser) -> AttendGradientOp:
        parser.parse_keyword("of")
        wanted = parser.parse_comma_separated_list(parser.Delimiter.NONE, parser.parse_str_literal)
        parsed = ParsedAttention.read(parser)
        parser.parse_keyword("given")
        given = {"out": parser.parse_unresolved_operand()}
        parser.parse_punctuation(",")
        given["rows"] = parser.parse_unresolved_operand()
        for name in ("d_out", "d_lse"):
            if parser.parse_optional_keyword(name):
                given[name] = parser.parse_unresolved_operand()
        attributes = parser.parse_optional_attr_dict_with_keyword()
        types, _ = syntax.parse_signature(parser, len(wanted))
        operands = parser.resolve_operands([*parsed.operands, *given.values()], types, parser.pos)
        count = len(parsed.operands)
        values: dict[str, SSAValue | None] = {"d_out": None, "d_lse": None}
        values |= dict(zip(given, operands[count:], strict=True))
        return AttendGradientOp(
            **parsed.groups(operands[:count]),
            **values,  # type: ignore[arg-type]
            **parsed.shape,
            wanted=wanted,
            attributes=dict(attributes.data) if attributes else {},
        )


def operand_names(sources: int, captures: Sequence[str] | dict[str, SSAValue]) -> list[str]:
    """Names of an attention's operands, in order, as ``wanted`` uses them."""
    keys = [f"key{n}" for n in range(sources)]
    values = [f"value{n}" for n in range(sources)]
    return ["query", *keys, *values, *(f"capture:{name}" for name in captures)]


def _optional(value: SSAValue | None) -> list[SSAValue]:
    return [] if value is None else [value]


@irdl_op_definition
class CallGradientOp(IRDLOperation):
    """The vector-Jacobian product of an :class:`CallOp`.

    ``given`` numbers the outputs of the call that ``gradients`` belong to, ``wanted`` the inputs whose gradients are
    the results; an input that the outputs do not depend on gets zeros.
    """

    name = "attn.call_gradient"
    call = prop_def(StringAttr)
    given = prop_def(ArrayAttr[IntAttr])
    wanted = prop_def(ArrayAttr[IntAttr])
    inputs = var_operand_def(TensorType)
    gradients = var_operand_def(TensorType)
    outputs = var_result_def(TensorType)
    irdl_options = (AttrSizedOperandSegments(as_property=True),)

    def __init__(
        self,
        call: str,
        inputs: Sequence[SSAValue],
        given: Sequence[int],
        gradients: Sequence[SSAValue],
        wanted: Sequence[int],
        attributes: dict[str, Attribute] | None = None,
    ):
        super().__init__(
            properties={
                "call": StringAttr(call),
                "given": ArrayAttr([IntAttr(n) for n in given]),
                "wanted": ArrayAttr([IntAttr(n) for n in wanted]),
            },
            operands=[inputs, gradients],
            attributes=attributes or {},
            result_types=[[inputs[n].type for n in wanted]],
        )

    @property
    def given_list(self) -> list[int]:
        return [n.data for n in self.given]

    @property
    def wanted_list(self) -> list[int]:
        return [n.data for n in self.wanted]

    def verify_(self) -> None:
        if len(self.given) != len(self.gradients):
            raise VerifyException(
                f"{self.name}{where(self)}: {len(self.given)} outputs, {len(self.gradients)} gradients"
            )

    def print(self, printer: Printer) -> None:
        lines = syntax.Lines(printer)
        lines.text(" ").literal(self.call.data).text(" (").values(self.inputs).text(")")
        lines.text(f" given {self.given_list} (").values(self.gradients).text(f") wanted {self.wanted_list}")
        printer.print_op_attributes(self.attributes, print_keyword=True)
        lines.text(" : (").types(self.inputs).text(") (").types(self.gradients).text(")")

    @classmethod
    def parse(cls, parser: Parser) -> CallGradientOp:
        call = parser.parse_str_literal()
        inputs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_unresolved_operand)
        parser.parse_keyword("given")
        given = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
        gradients = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_unresolved_operand)
        parser.parse_keyword("wanted")
        wanted = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_integer)
        loose = [n for n in wanted if not 0 <= n < len(inputs)]
        if loose:
            parser.raise_error(f"input {loose[0]} is wanted of {len(inputs)} inputs")
        attributes = parser.parse_optional_attr_dict_with_keyword()
        parser.parse_punctuation(":")
        input_types = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_type)
        gradient_types = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_type)
        return CallGradientOp(
            call,
            parser.resolve_operands(inputs, input_types, parser.pos),
            given,
            parser.resolve_operands(gradients, gradient_types, parser.pos),
            wanted,
            dict(attributes.data) if attributes else {},
        )


@irdl_op_definition
class ScatterOp(IRDLOperation):
    """``output[index(x)] += input[x]`` over the points ``x`` of ``dims``; the rest of the output is zero.

    Extents of ``dims`` may use earlier dimensions; the input is at least as large as the box around them.  The index
    may read captured tensors.  Several points may meet in one element: they are added in order, so the result has the
    same bits every time.  An index outside of the output is skipped.
    """

    name = "attn.scatter"
    input = operand_def(TensorType)
    captures = var_operand_def(TensorType)
    capture_names = prop_def(ArrayAttr[StringAttr])
    dims = prop_def(DimsAttr)
    index = prop_def(MapAttr)
    output = result_def(TensorType)
    traits = traits_def(Pure())

    def __init__(
        self,
        input: SSAValue,
        dims: Sequence[Dim],
        index: Sequence[Expr],
        result_type: TensorType,
        captures: dict[str, SSAValue] | None = None,
        attributes: dict[str, Attribute] | None = None,
    ):
        captures = captures or {}
        super().__init__(
            operands=[input, list(captures.values())],
            properties={
                "dims": DimsAttr(tuple(dims)),
                "index": MapAttr(tuple(index)),
                "capture_names": ArrayAttr(strings(captures)),
            },
            attributes=attributes or {},
            result_types=[result_type],
        )

    @property
    def captured(self) -> dict[str, SSAValue]:
        """Captured tensors by the name that the index uses."""
        return dict(zip((n.data for n in self.capture_names), self.captures, strict=True))

    def print(self, printer: Printer) -> None:
        lines = syntax.Lines(printer)
        lines.text(" ").value(self.input).text(" over ").literal(self.dims.text())
        lines.text(" to ").literal(self.index.text())
        for name, value in self.captured.items():
            lines.text(f" capture {name} = ").value(value)
        printer.print_op_attributes(self.attributes, print_keyword=True)
        lines.text(" : (").types(self.operands).text(") -> (").types(self.results).text(")")

    @classmethod
    def parse(cls, parser: Parser) -> ScatterOp:
        operands = [parser.parse_unresolved_operand()]
        parser.parse_keyword("over")
        dims = DimsAttr.parse_text(parser)
        parser.parse_keyword("to")
        index = MapAttr.parse_text(parser)
        names = []
        while parser.parse_optional_keyword("capture"):
            names.append(parser.parse_identifier())
            parser.parse_punctuation("=")
            operands.append(parser.parse_unresolved_operand())
        attributes = parser.parse_optional_attr_dict_with_keyword()
        types, (result,) = syntax.parse_signature(parser, 1)
        input, *captures = parser.resolve_operands(operands, types, parser.pos)
        assert isinstance(result, TensorType)
        return ScatterOp(
            input,
            dims.data,
            index.data,
            result,
            dict(zip(names, captures, strict=True)),
            dict(attributes.data) if attributes else {},
        )

    def verify_(self) -> None:
        ranks = len(tensor_type(self.input).shape), len(tensor_type(self.output).shape)
        if (len(self.dims.data), len(self.index.data)) != ranks:
            raise VerifyException(
                f"{self.name}{where(self)} from rank {ranks[0]} to rank {ranks[1]} has {len(self.dims.data)} "
                f"dimensions and an index of {len(self.index.data)} expressions"
            )
        known = {d.name for d in self.dims.data}
        for v in (*self.operands, self.output):
            known |= set().union(*(free_vars(s) for s in tensor_type(v).shape))
        for d in self.dims.data:
            known |= free_vars(d.extent)
        if isinstance(func := self.parent_op(), FuncOp):
            known |= set(func.sizes())
        loose = set().union(*(free_vars(e) for e in self.index.data)) - known
        loose |= {load.tensor for e in self.index.data for load in loads(e)} - set(self.captured)
        if loose:
            raise VerifyException(
                f"{self.name}{where(self)}: the index uses {', '.join(sorted(loose))}, not a dimension"
            )


Attn = Dialect(
    "attn",
    [FuncOp, ReturnOp, CallOp, ReorderOp, AttendOp, AttendGradientOp, CallGradientOp, ScatterOp],
    [TensorType, ExprAttr, LambdaAttr, MapAttr, DimsAttr, SourceAttr, TilesAttr],
)
