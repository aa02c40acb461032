"""``attnc explain``: what attnc makes of a function, as a table."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options


def explain(
    target: options.TargetArgument,
    shape: options.ShapeOption = None,
    arg: options.ArgOption = None,
    dtype: options.DtypeOption = "f32",
    device: options.DeviceOption = "cpu",
    backend: options.BackendOption = "auto",
    machine: options.MachineOption = None,
    backward: options.BackwardOption = False,
    run: Annotated[
        bool, typer.Option("--run", help="Also run it on random inputs of this size, and compare with the roofline.")
    ] = False,
    picture: Annotated[
        str | None, typer.Option("--picture", metavar="FILE", help="Also draw the tile map (.png or .svg).")
    ] = None,
) -> None:
    """Say what was recognised, how it is tiled, how much of the square is computed, and what stays eager.

    Costs no memory whatever the length: without --run nothing is run, and no tensor of the given size is made.  For a
    GPU that is named by --target the kernels are compiled, about a second each, to say what their machine code needs.
    """
    from . import console
    from .lowering import is_gpu, lower

    lowered = lower(target, shape, arg, dtype, device, backend, machine)
    page = lowered.explain(compiled=is_gpu(machine), track=console.track)
    print(page)
    if backward:
        print(f"\n{page.backward}")
    if run:
        from .measure import measured

        print(f"\n{measured(page, target, shape, arg, dtype, device, backend, backward)}")
    if picture is not None:
        from ..pictures import tile_map

        tile_map(lowered, path=picture)
        print(f"\ntile map: {picture}")
