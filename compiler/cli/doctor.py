"""``attnc doctor``: what this machine offers, and what is wrong with it."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    run: Annotated[bool, typer.Option(help="Also compile and check a small function on every backend.")] = True,
) -> None:
    """Show versions, processor, GPU, backends and cache, and every problem found with what to do about it.

    Exit status 1 when something keeps attnc from working.
    """
    from rich.console import Console
    from rich.table import Table

    from ..doctor import diagnose

    report = diagnose(run=run)
    console = Console(soft_wrap=True, highlight=False)
    for section in report.sections:
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
        for name, value in section.rows:
            table.add_row(f"  {name}", value)
        console.print(section.title, style="bold")
        console.print(table)
    if not report.problems:
        console.print("no problem found", style="green")
    for problem in report.problems:
        console.print(
            f"{'error' if problem.fatal else 'note'}: {problem.what}", style="red" if problem.fatal else "yellow"
        )
        console.print(f"  {problem.cure}")
    if any(p.fatal for p in report.problems):
        raise typer.Exit(1)
