"""``attnc validate``: compiled against eager, outputs and gradients."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options


def validate(
    target: options.TargetArgument,
    shape: options.ShapeOption = None,
    arg: options.ArgOption = None,
    dtype: options.DtypeOption = "f32",
    device: options.DeviceOption = "cpu",
    backend: options.BackendOption = "auto",
    backward: Annotated[bool, typer.Option(help="Compare gradients too.")] = True,
    gradcheck: Annotated[
        bool,
        typer.Option(
            "--gradcheck",
            help="Also compare gradients with finite differences in float64; in every entry where inputs and outputs "
            "have at most 512 elements, such as --shape B=1,H=2,N=32,D=8.",
        ),
    ] = False,
) -> None:
    """Run a function compiled and eagerly, and compare both with eager in float64.

    A result is right when its error is at most twice eager's own plus 4 ulp.  Exit status 1 when one is not.
    """
    from ..targets import load_target
    from ..validation import validate as run
    from .inputs import derive
    from .lowering import compiled

    found = load_target(target)
    args, kwargs = derive(found, shape, arg, dtype, device, data=True)
    report = run(compiled(found, backend), *args, backward=backward, gradcheck=gradcheck, **kwargs)
    print(report)
    if not report.ok:
        raise typer.Exit(1)
