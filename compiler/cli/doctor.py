"""``attnc doctor``: what this machine offers, and what is wrong with it."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    run: Annotated[bool, typer.Option(help="Also compile and check a small function on every backend.")] = True,
    measure: Annotated[
        bool, typer.Option("--measure", help="Instead, take the figures of this CPU that the cost model works with.")
    ] = False,
) -> None:
    """Show versions, processor, GPU, backends and cache, and every problem found with what to do about it.

    Exit status 1 when something keeps attnc from working.
    """
    from rich.console import Console
    from rich.table import Table

    from ..doctor import diagnose

    if measure:
        _measure()
        return
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


def _measure() -> None:
    """Measure, keep, and show."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from .. import figures
    from ..calibration import measure
    from ..settings import Settings

    console = Console(soft_wrap=True, highlight=False)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("starting")

        def track(what: str, done: int, of: int) -> None:
            progress.update(bar, description=what, completed=done, total=of)

        found = measure(track)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    for name, value in figures.words(found):
        table.add_row(f"  {name}", value)
    console.print("figures", style="bold")
    console.print(table)
    path = figures.save(found, Settings.of().cache_dir)
    if path is None:
        console.print("the cache folder cannot be written: nothing was kept", style="red")
        raise typer.Exit(1)
    console.print(f"kept in {path}; plans are made with them from now on, and without them once it is removed")
