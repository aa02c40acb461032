"""The progress bar of a search: configurations tried, the best so far, the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..autotune.tuner import Progress, Watch


@contextmanager
def bar(minutes: float) -> Iterator[Watch]:
    """A bar on standard error for a search of that many minutes; gives the function that the search reports to."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        """Counts down between reports."""

        def render(self, task: Task) -> Text:
            left = max(0, int(task.fields["end"] - time.monotonic()))
            return Text(f"{left // 60}:{left % 60:02d} left", style="progress.remaining")

    shown = Bar(
        SpinnerColumn(),
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeLeft(),
        console=Console(stderr=True),
    )
    tasks: dict[str, Any] = {}
    with shown:
        end = time.monotonic() + 60 * minutes
        waiting = shown.add_task("checking", total=None, note="running the function as written in float64", end=end)

        def watch(p: Progress) -> None:
            shown.update(waiting, visible=False)
            best = f"{p.best:.2f}x ({p.choice})" if p.choice else "the default"
            note = f"tried{f', {p.failed} failed' if p.failed else ''}, best {best}"
            fields: dict[str, Any] = {"note": note, "end": time.monotonic() + (p.seconds_left or 0.0)}
            if p.direction not in tasks:
                tasks[p.direction] = shown.add_task(p.direction, total=p.total, **fields)
            shown.update(tasks[p.direction], completed=p.tried, **fields)

        yield watch
