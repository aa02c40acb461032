"""Reading and printing modules of the project's dialects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import StringIO

from xdsl.context import Context
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import ParseError, VerifyException

from .attributes import LINES
from .errors import IRSyntaxError, IRVerifyError
from .gradient import Attn
from .tile import Tile


def context() -> Context:
    """A fresh xDSL context with the builtin, attn and tile dialects."""
    ctx = Context()
    for dialect in (Builtin, Attn, Tile):
        ctx.load_dialect(dialect)
    return ctx


# xDSL 0.74 reads a hexadecimal float inside dense<...> as an integer and returns a wrong value silently.
_HEX_IN_DENSE = re.compile(r"dense<[^>]*0x[0-9a-fA-F]+")
# A comment, or a string up to its end; xDSL's own pattern tries every way to divide a string that has none.
_STRING = re.compile(r'//[^\n]*+|"(?:[^"\\\n\v\f]++|\\(?:["nt\\]|[0-9A-Fa-f]{2}))*+(?P<end>"?)')


def parse_module(text: str, name: str = "<input>") -> ModuleOp:
    """Read and verify a module.  Raises :class:`IRSyntaxError` or :class:`IRVerifyError`."""
    if lone := re.search("[\ud800-\udfff]", text):
        line = text.count("\n", 0, lone.start()) + 1
        raise IRSyntaxError(f"{name}:{line}: half of a surrogate pair, which no encoding of text has")
    if match := _HEX_IN_DENSE.search(text):
        line = text.count("\n", 0, match.start()) + 1
        raise IRSyntaxError(f"{name}:{line}: a hexadecimal float in dense<...> is not supported; write it in decimal")
    for string in _STRING.finditer(text):
        if string["end"] == "":
            at = string.start()
            line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
            raise IRSyntaxError(f"{name}:{line}:{column}: a string without an end, or with an unknown escape")
    try:
        module = Parser(context(), text, name).parse_module()
    except ParseError as error:
        raise IRSyntaxError(str(error).strip()) from None
    except VerifyException as error:
        raise IRVerifyError(str(error).strip()) from None
    except RecursionError:
        raise IRSyntaxError(f"{name}: the IR is nested too deeply to read") from None
    except ValueError as error:  # a number of thousands of digits
        raise IRSyntaxError(f"{name}: {error}") from None
    verify(module)
    return module


def verify(module: ModuleOp) -> None:
    """Check a module, dominance included.  Raises :class:`IRVerifyError`."""
    try:
        module.verify()
    except VerifyException as error:
        raise IRVerifyError(str(error).strip()) from None
    _check_dominance(module)


def _check_dominance(module: ModuleOp) -> None:
    # xDSL's verifier accepts a use before its definition; our regions hold one block each, so order is enough.
    from xdsl.ir import BlockArgument, Operation

    def visit(op: Operation, seen: set[int]) -> None:
        for n, operand in enumerate(op.operands):
            if id(operand) not in seen:
                raise IRVerifyError(f"operand {n} of {op.name} is used before it is defined:\n  {op}")
        for region in op.regions:
            inner = set(seen)
            for block in region.blocks:
                inner.update(id(a) for a in block.args if isinstance(a, BlockArgument))
                for child in block.ops:
                    visit(child, inner)
        seen.update(id(r) for r in op.results)

    visit(module, set())


def print_module(module: ModuleOp, *, generic: bool = False, lines: bool = False) -> str:
    """The text of a module, ending in a newline.

    With ``lines``, the attribute of that name is shown: the user's lines that each part of an op came from.
    """
    stream = StringIO()
    with nullcontext() if lines else _without_lines(module):
        Printer(stream, print_generic_format=generic).print_op(module)
    return stream.getvalue() + "\n"


@contextmanager
def _without_lines(module: ModuleOp) -> Iterator[None]:
    """Hide the attribute: to print a stripped copy instead would cost as much as printing does."""
    hidden = [(op, op.attributes.pop(LINES)) for op in module.walk() if LINES in op.attributes]
    try:
        yield
    finally:
        for op, lines in hidden:
            op.attributes[LINES] = lines


def forget_lines(module: ModuleOp) -> None:
    """Drop what only somebody who reads the program wants."""
    for op in module.walk():
        op.attributes.pop(LINES, None)
