"""Helpers for custom text: what the dialects' hand-written printers and parsers share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from xdsl.ir import Attribute, Block, Region, SSAValue
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

__all__ = ["Lines", "VerifyException", "argument_region", "parse_arguments", "parse_signature", "print_arguments"]


class Lines:
    """Fluent printing of an op that takes several indented lines."""

    def __init__(self, printer: Printer):
        self.printer = printer

    def new(self, text: str) -> Self:
        """Start a line."""
        self.printer._print_new_line()  # pyright: ignore[reportPrivateUsage] -- xDSL has no public way
        return self.text(text)

    def text(self, text: str) -> Self:
        self.printer.print_string(text)
        return self

    def literal(self, text: str) -> Self:
        self.printer.print_string_literal(text)
        return self

    def value(self, value: SSAValue) -> Self:
        self.printer.print_ssa_value(value)
        return self

    def element(self, value: SSAValue, index: str) -> Self:
        """A value and the index map that reads it."""
        return self.value(value).text(" ").literal(index)

    def values(self, values: Iterable[SSAValue]) -> Self:
        self.printer.print_list(values, self.printer.print_ssa_value)
        return self

    def types(self, values: Iterable[SSAValue]) -> Self:
        self.printer.print_list((v.type for v in values), self.printer.print_attribute)
        return self

    @contextmanager
    def indented(self) -> Iterator[Self]:
        with self.printer.indented():
            yield self


def parse_signature(parser: Parser, results: int) -> tuple[list[Attribute], list[Attribute]]:
    """Read ``: (types) -> (types)`` with a fixed number of results."""
    parser.parse_punctuation(":")
    inputs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_type)
    parser.parse_punctuation("->")
    start = parser.pos
    outputs = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_type)
    if len(outputs) != results:
        parser.raise_error(f"expected {results} result types, found {len(outputs)}", start, parser.pos)
    return list(inputs), list(outputs)


def argument_region(names: Sequence[str], types: Sequence[Attribute]) -> Region:
    """An empty body whose arguments print under these names."""
    block = Block(arg_types=types)
    for arg, name in zip(block.args, names, strict=True):
        arg.name_hint = name
    return Region(block)


def print_arguments(printer: Printer, args: Sequence[SSAValue], names: Sequence[str]) -> None:
    """Print ``(%q: type, ...)``, and the names where xDSL chose other SSA names (it drops numbered suffixes)."""
    printed: list[str] = []

    def argument(arg: SSAValue) -> None:
        printed.append(printer.print_ssa_value(arg).removeprefix("%"))
        printer.print_string(": ")
        printer.print_attribute(arg.type)

    with printer.in_parens():
        printer.print_list(args, argument)
    if printed != list(names):
        printer.print_string(" names [")
        printer.print_list(names, printer.print_string_literal)
        printer.print_string("]")


def parse_arguments(parser: Parser) -> tuple[list[Parser.Argument], list[str]]:
    """Read what :func:`print_arguments` prints."""
    args = parser.parse_comma_separated_list(parser.Delimiter.PAREN, parser.parse_argument)
    names = [a.name.text[1:] for a in args]
    if parser.parse_optional_keyword("names"):
        names = parser.parse_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_str_literal)
    return args, names
