"""``attnc passes``: what ``attnc opt -p`` can run.  Imports no torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer


def passes(
    name: Annotated[
        str | None, typer.Argument(help="Show the whole description of one pass.", show_default=False)
    ] = None,
) -> None:
    """List the passes in pipeline order, with what they do and their options."""
    from ..errors import nearest
    from ..passes import PASSES, load_pass
    from ..targets import UsageError

    if name is not None:
        if name not in PASSES:
            raise UsageError(f"there is no pass {name!r}{nearest(name, PASSES)}")
        print(f"{name}\n\n{description(load_pass(name))}\n{_options(load_pass(name))}".rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("pass", "what it does", "options", box=None, pad_edge=False, header_style="bold")
    for each in PASSES:
        cls = load_pass(each)
        table.add_row(each, description(cls).split("\n\n")[0].replace("\n", " "), _options(cls).replace("\n", ", "))
    console = Console()
    console.print(table) if console.is_terminal else Console(width=160).print(table)


def description(cls: type) -> str:
    """The docstring of the pass's file: it shows the IR before and after."""
    import inspect
    import sys

    return inspect.cleandoc(sys.modules[cls.__module__].__doc__ or cls.__doc__ or "")


def _options(cls: type) -> str:
    rows = []
    for field in dataclasses.fields(cls):
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        rows.append(f"{field.name}: {kind}" + ("" if needed else f" = {field.default!r}"))
    return "\n".join(rows)
