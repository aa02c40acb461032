"""Attributes and types shared by the dialects: expressions, index maps, iteration domains.

Each holds a plain Python value and prints it as one string, so that generic and custom text agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Attribute, Data, Operation, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import BaseAttr, irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from .expr import TRUE, Expr, ExprSyntaxError, Lambda, Op, Var, map_text, parse, parse_lambda, parse_map

T = TypeVar("T")


class TextData(Data[T]):
    """A ``Data`` attribute printed as ``<"text">``; subclasses give ``text`` and ``read``."""

    def text(self) -> str:
        return str(self.data)

    @classmethod
    def read(cls, text: str) -> T:
        raise NotImplementedError

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> T:
        if parser.parse_optional_punctuation("<") is None:  # op syntax may leave the brackets out
            return cls.parse_text(parser).data
        value = cls.parse_text(parser).data
        parser.parse_punctuation(">")
        return value

    @classmethod
    def parse_text(cls, parser: AttrParser) -> Self:
        """Read the bare string literal, as custom op syntax prints it."""
        start = parser.pos
        text = parser.parse_str_literal()
        try:
            return cls(cls.read(text))
        except ExprSyntaxError as error:
            parser.raise_error(str(error), start, parser.pos)

    def print_parameter(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(self.text())


@irdl_attr_definition
class ExprAttr(TextData[Expr]):
    """An integer or boolean expression."""

    name = "attn.expr"

    @classmethod
    def read(cls, text: str) -> Expr:
        return parse(text)


@irdl_attr_definition
class LambdaAttr(TextData[Lambda]):
    """An expression of named float arguments."""

    name = "attn.lambda"

    @classmethod
    def read(cls, text: str) -> Lambda:
        return parse_lambda(text)


@irdl_attr_definition
class MapAttr(TextData[tuple[Expr, ...]]):
    """An index map: one expression per axis of the tensor that it reads or writes."""

    name = "attn.map"

    def text(self) -> str:
        return map_text(self.data)

    @classmethod
    def read(cls, text: str) -> tuple[Expr, ...]:
        return parse_map(text)


@dataclass(frozen=True, slots=True)
class Dim:
    """One dimension of an iteration domain: ``name`` runs over ``[0, extent)``.

    ``extent`` may use sizes and the dimensions before this one.
    """

    name: str
    extent: Expr

    def __str__(self) -> str:
        return f"{self.name} < {self.extent}"


@irdl_attr_definition
class DimsAttr(TextData[tuple[Dim, ...]]):
    """An iteration domain, outermost dimension first."""

    name = "attn.dims"

    def text(self) -> str:
        return ", ".join(str(d) for d in self.data)

    @classmethod
    def read(cls, text: str) -> tuple[Dim, ...]:
        return tuple(_dim(e) for e in parse_map(text))


def _dim(e: Expr) -> Dim:
    match e:
        case Op("<", (Var(name), extent)):
            return Dim(name, extent)
    raise ExprSyntaxError(f"expected 'name < extent', found {e}")


def strings(values: Iterable[str]) -> list[StringAttr]:
    """String attributes, for an ArrayAttr."""
    return [StringAttr(v) for v in values]


# An attribute of attentions and of what kernels are made of: the user's lines that each role, or the op, came from.
# Texts leave it out unless they are asked for it.
LINES = "lines"


def where(op: Operation) -> str:
    """The user's ``file:line`` that ``op`` came from, as a suffix for messages; empty when unknown."""
    at: Any = op.attributes.get("at")
    return f" (from {at.data})" if isinstance(at, StringAttr) else ""


@dataclass(frozen=True, slots=True)
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
        parts = [part.strip() for part in text.split(";")]
        if len(parts) != 5 or len(dims := DimsAttr.read(parts[0])) != 1:
            raise ExprSyntaxError(f"expected 'j < M; keys; values; mask; score', found {text!r}")
        (d,), (key_map, value_map, mask, score) = dims, parts[1:]
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
        found = re.fullmatch(r"\s*(\d{1,6})\s*x\s*(\d{1,6})\s*", text)
        if not found:
            raise ExprSyntaxError(f"expected 'rows x keys', such as '64 x 128', found {text!r}")
        return int(found[1]), int(found[2])


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


def tensor_type(value: SSAValue) -> TensorType:
    """The type of a value that must be a tensor."""
    if not isinstance(value.type, TensorType):
        raise VerifyException(f"expected a value of type !attn.tensor, found {value.type}")
    return value.type
