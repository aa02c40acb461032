"""``attnc zoo``: the published systems, judged one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..zoo.systems import System
    from .zoo_rows import Judged


def zoo(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Systems, by name or file; all of them without it.")
    ] = None,
    path: Annotated[
        str | None, typer.Option("--path", metavar="FOLDER", help="Where the systems are, if not beside the package.")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Measure no times.")] = False,
    rounds: Annotated[int, typer.Option(help="Turns of each contender; the median counts.", min=1)] = 5,
    backend: options.BackendOption = "auto",
    picture: Annotated[
        str | None, typer.Option("--picture", metavar="FILE", help="With NAME: also draw its pattern (.png).")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Also write all that was found, and the machine; the file keeps what "
            "it says of other systems, and with --fast their times.",
        ),
    ] = None,
    docs: Annotated[
        str | None, typer.Option("--docs", metavar="FILE", help="Write the page about the zoo instead, with pictures.")
    ] = None,
) -> None:
    """Judge published attention systems: fused or not, how much is computed, right or wrong, how fast.

    Errors are those of small inputs, outputs and gradients, against float64; shares and times are those of the
    published sizes.  Exit status 1 when a system is wrong.
    """
    from ..targets import UsageError
    from ..zoo.systems import files, find, folder, load
    from . import zoo_rows as rows
    from .console import track
    from .lowering import check_backend

    check_backend(backend)
    if picture is not None and len(names or ()) != 1:
        raise UsageError("--picture draws one system: name it, as in attnc zoo swin --picture swin.png")
    paths = [find(name, path) for name in names] if names else files(folder(path))
    if docs is not None:
        _write_docs([load(p) for p in paths], Path(docs))
        return
    judged = []
    for p in track(paths, "systems") if len(paths) > 1 else paths:
        judged.append(rows.judge(load(p), backend, None if fast else rounds))
        if output is not None and (output != "-" or len(judged) == len(paths)):
            _keep(judged, output)  # after each: a run that is cut off has not been in vain
        if names:
            print(judged[-1].page())
    if not names:
        rows.show(judged)
    print(rows.summary(judged))
    if picture is not None:
        _draw(judged[0].system, Path(picture))
        print(f"picture: {picture}")
    if not all(j.right for j in judged):
        raise typer.Exit(1)


def _keep(judged: Sequence[Judged], output: str) -> None:
    """Write what was found to a file; what it says of other systems stays, and so do times that were not measured."""
    import json

    import torch

    from .console import write
    from .timing import machine

    file = Path(output)
    systems: dict[str, dict[str, Any]] = json.loads(file.read_text())["systems"] if file.is_file() else {}
    for j in judged:
        systems[j.system.name] = systems.get(j.system.name, {}) | j.to_json()
    data = {"machine": machine(), "threads": torch.get_num_threads(), "systems": dict(sorted(systems.items()))}
    write(json.dumps(data, indent=1), output)


def _write_docs(systems: list[System], page: Path) -> None:
    """The page, and a picture of every system in a folder of the page's name beside it."""
    import json

    from ..targets import UsageError
    from ..zoo import judge
    from ..zoo.page import TARGET
    from ..zoo.page import page as text
    from .console import track, write

    measured: dict[str, Any] = {}
    times = Path(__file__).parents[2] / "benchmarks" / "results" / "zoo.json"
    if times.is_file():
        measured = json.loads(times.read_text())
    pictures = page.with_suffix("")
    if not page.parent.is_dir():
        raise UsageError(f"cannot write {page}: there is no folder {page.parent}")
    pictures.mkdir(exist_ok=True)
    found = []
    for system in track(systems, "systems"):
        found.append((system, judge.facts(system, target=TARGET)))
        _draw(system, pictures / f"{system.name}.png")
    write(text(found, measured), str(page))


def _draw(system: System, path: Path) -> None:
    from ..targets import UsageError
    from ..zoo.pictures import picture

    if path.suffix != ".png" or not path.parent.is_dir():
        raise UsageError(f"cannot draw {path}: it must be a .png file in a folder that exists")
    inputs = system.inputs(small=True)
    path.write_bytes(picture([system.function(name).lower(*args) for name, args in inputs.items()]))
