"""``attnc inspect``: everything about a function on one page."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options


def inspect(
    target: options.TargetArgument,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="Where to write it.")] = "report.html",
    shape: options.ShapeOption = None,
    arg: options.ArgOption = None,
    dtype: options.DtypeOption = "f32",
    device: options.DeviceOption = "cpu",
    backend: options.BackendOption = "auto",
    machine: options.MachineOption = None,
    backward: options.BackwardOption = False,
) -> None:
    """Write one page of HTML: source, pattern with its tile map, the program after every pass, kernels and costs.

    The page loads nothing from anywhere, and its map is drawn from formulas: no length is too large for it.
    """
    from ..report.page import page
    from . import console
    from .lowering import lower

    text = page(lower(target, shape, arg, dtype, device, backend, machine), backward=backward)
    console.write(text, output)
    if output != "-":
        print(f"{output}: {len(text.encode()) / 1e6:.1f} MB")
