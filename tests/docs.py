"""Running the snippets of a page: Python blocks in order in one namespace, console blocks against what they show."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from attnc.compiler.cli.app import main


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line that it starts on."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in re.finditer(r"^( *)```(\w+)\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL):
        indent = len(found[1])
        inner = "".join(line[indent:] or "\n" for line in found[3].splitlines(keepends=True))
        yield Block(found[2], inner, text.count("\n", 0, found.start()) + 2)


def run_python(page: Path) -> int:
    """Run the page's Python; gives how many blocks it has.  Errors name the line of the page."""
    module = ModuleType(f"docs_{page.stem.replace('-', '_')}")
    found = [b for b in blocks(page) if b.language == "python"]
    sys.modules[module.__name__] = module  # torch.compile imports a function's module by name
    try:
        for block in found:
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return len(found)


def run_console(page: Path) -> int:
    """Run the page's commands and compare their output; ``...`` stands for anything.  Gives their number."""
    count = 0
    for block in blocks(page):
        if block.language != "console":
            continue
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            out = _output(shlex.split(command))
            assert _matches(expected, out), f"{page.name}:{block.line}: {command}\n{out}"
            count += 1
    return count


def _output(words: list[str]) -> str:
    program, *arguments = words
    assert program == "attnc", words
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.suppress(SystemExit):
        main(arguments)
    return stream.getvalue()


def _matches(expected: str, found: str) -> bool:
    pattern = re.escape(expected.strip("\n"))
    pattern = pattern.replace(re.escape("...\n"), r"(?:.*\n)*?").replace(re.escape("\n..."), r"(?:\n.*)*")
    return bool(re.fullmatch(pattern.replace(re.escape("..."), ".*") + r"\n*", found))
