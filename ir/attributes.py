"""Attributes and types shared by the dialects: expressions, index maps, iteration domains.

Each holds a plain Python value and prints it as one string, so that generic and custom text agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Data, Operation
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from .expr import Expr, ExprSyntaxError, Lambda, map_text, parse, parse_lambda, parse_map

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
    name, args = getattr(e, "name", None), e.children
    if name != "<" or not isinstance(getattr(args[0], "name", None), str):
        raise ExprSyntaxError(f"expected 'name < extent', found {e}")
    return Dim(args[0].name, args[1])  # type: ignore[attr-defined]


def strings(values: Iterable[str]) -> list[StringAttr]:
    """String attributes, for an ArrayAttr."""
    return [StringAttr(v) for v in values]


def where(op: Operation) -> str:
    """The user's ``file:line`` that ``op`` came from, as a suffix for messages; empty when unknown."""
    at: Any = op.attributes.get("at")
    return f" (from {at.data})" if isinstance(at, StringAttr) else ""
