"""``attnc autotune``: find the fastest way to compute a function on this machine, and remember it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..autotune.records import Record


def autotune(
    target: Annotated[
        str | None, typer.Argument(metavar="[TARGET]", help="path/file.py:function or package.module:function.")
    ] = None,
    shape: options.ShapeOption = None,
    arg: options.ArgOption = None,
    dtype: options.DtypeOption = "f32",
    device: options.DeviceOption = "cpu",
    backend: options.BackendOption = "auto",
    backward: Annotated[bool, typer.Option(help="Tune the gradient too.")] = True,
    minutes: Annotated[float, typer.Option(help="The time to spend.", min=0.05)] = 2.0,
    trials: Annotated[
        int | None, typer.Option(help="Configurations to try in each direction.", min=1, show_default=False)
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where Optuna keeps the search; several processes may share it. Default: an SQLite file in the cache.",
            show_default=False,
        ),
    ] = None,
    export: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the results to a file for attnc.load_tuned().")
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List the results, of all functions or of TARGET.")] = False,
    show: Annotated[
        str | None, typer.Option(metavar="RESULT", help="Show one result, named as --list does.", show_default=False)
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Forget the results, of all functions or of TARGET.")] = False,
) -> None:
    """Measure ways to compute a function, forward and backward, and use the fastest from now on.

    Every candidate is compared with the function in float64 before it may win. Ctrl-C keeps what was found; the next
    run goes on from there. Several processes may tune one function at once.
    """
    from ..targets import UsageError

    if sum((list_all, show is not None, clear)) > 1:
        raise UsageError("give one of --list, --show and --clear")
    if list_all or show is not None or clear:
        _manage(target, show, clear, storage)
    elif target is not None:
        _tune(target, shape, arg, dtype, device, backend, backward, minutes, trials, storage, export)
    elif export is not None:
        from ..autotune.shipping import export_tuned

        records = _results(None)
        export_tuned(export, records)
        print(f"{len(records)} results: {export}")
    else:
        raise UsageError("name a function to tune, or give --list, --show, --clear or --export")


def _tune(
    target: str,
    shape: str | None,
    arg: Sequence[str] | None,
    dtype: str,
    device: str,
    backend: str,
    backward: bool,
    minutes: float,
    trials: int | None,
    storage: str | None,
    export: str | None,
) -> None:
    from ..autotune.shipping import export_tuned
    from ..autotune.tuner import autotune as run
    from ..targets import load_target
    from .inputs import derive
    from .lowering import compiled
    from .progress import bar

    found = load_target(target)
    args, kwargs = derive(found, shape, arg, dtype, device, data=True)
    smaller = _smaller(shape)
    check = None if smaller is None else derive(found, smaller, arg, dtype, device, data=True)
    with bar(minutes) as watch:
        report = run(
            compiled(found, backend),
            *args,
            backward=backward,
            minutes=minutes,
            trials=trials,
            storage=storage,
            check=check,
            watch=watch,
            **kwargs,
        )
    print(report)
    if export is not None:
        export_tuned(export, report.records)
        print(f"{len(report.records)} results: {export}")
    if report.interrupted:
        raise typer.Exit(130)  # as a program that an interrupt ended
    if not report.found:
        raise typer.Exit(1)


MOST_SCORES = 1 << 24  # of the function run eagerly in float64


def _smaller(shape: str | None) -> str | None:
    """Sizes that eager float64 can take, where the given ones are too large: lengths halved until they are."""
    import math

    from .inputs import parse_sizes

    if shape is None:
        return None
    sizes = parse_sizes(shape)
    lengths = [name for name in ("N", "N_k") if name in sizes]

    def scores() -> int:
        return math.prod(sizes.get(name, 1) for name in ("B", "H", "N")) * sizes.get("N_k", sizes.get("N", 1))

    if scores() <= MOST_SCORES:
        return None
    while scores() > MOST_SCORES and any(sizes[name] > 64 for name in lengths):
        for name in lengths:
            sizes[name] = max(min(sizes[name], 64), sizes[name] // 2)
    return ",".join(f"{name}={size}" for name, size in sizes.items())


# ---- results that are there -----------------------------------------------------------------------------


def _results(target: str | None) -> list[Record]:
    from ..autotune.store import Store
    from ..settings import Settings
    from ..targets import load_target

    records = Store(Settings.of().cache_dir).all()
    if target is None:
        return records
    function: Any = load_target(target).function
    name = getattr(getattr(function, "eager", function), "__name__", "")
    return [r for r in records if r.function == name]


def _manage(target: str | None, show: str | None, clear: bool, storage: str | None) -> None:
    from ..autotune.store import Store
    from ..settings import Settings
    from ..targets import UsageError

    records = _results(target)
    if clear:
        from ..autotune.study import forget

        store = Store(Settings.of().cache_dir)
        forget(storage or store.studies, None if target is None else [r.name for r in records])
        print(f"{store.remove(records)} results forgotten")
    elif show is not None:
        named = [r for r in records if r.name.startswith(show)]
        if len(named) != 1 or not show:
            raise UsageError(f"--show {show}: {len(named)} results have a name that starts so; --list shows the names")
        print(_page(named[0]))
    elif not records:
        print("no tuned results; `attnc autotune TARGET` makes some")
    else:
        _table(records)


def _table(records: Sequence[Record]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..autotune.space import choice_text

    table = Table(box=None, pad_edge=False)
    for head in ("result", "function", "direction", "type", "lengths up to", "speed", "choice", "date", "device"):
        table.add_column(head, justify="right" if head == "speed" else "left", no_wrap=head != "device")
    for r in records:
        lengths = " x ".join(f"{1 << e:,}" for e in r.lengths)
        choice = choice_text(r.choice) or "the default"
        speed = f"{r.speedup:.2f}x"
        table.add_row(
            r.short, r.function, r.direction, f"{r.dtype} {r.widths}", lengths, speed, choice, r.date, r.device
        )
    (Console() if Console().is_terminal else Console(width=200)).print(table)


def _page(r: Record) -> str:
    from ..autotune.space import choice_text
    from ..explain_text import unit

    rows = {
        "pattern": r.pattern,
        "measured": f"{r.dtype}, widths {r.widths}, " + ", ".join(f"{k}={v:,}" for k, v in r.sizes.items()),
        "lengths": "up to " + " x ".join(f"{1 << e:,}" for e in r.lengths),
        "device": r.device,
        "versions": r.versions,
        "choice": choice_text(r.choice) or "the default",
        "default": r.default or "of its own",
        "time": f"{unit(r.seconds, 1000, 's')}, the default {unit(r.default_seconds, 1000, 's')}: {r.speedup:.2f}x",
        "search": f"{r.tried} configurations tried, {r.failed} of them failed; {r.date}",
    }
    lines = [f"{r.short} {r.function} {r.direction}", *(f"  {label:<10}{value}" for label, value in rows.items())]
    return "\n".join(lines)
