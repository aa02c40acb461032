"""``attnc dump``: the text of a function after a stage of its compilation."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options


def dump(
    target: options.TargetArgument,
    stage: Annotated[
        str,
        typer.Option(
            "--stage", metavar="capture|attn|tile|mlir|llvm|triton|ttir|ttgir|ptx", help="Which text to show."
        ),
    ] = "tile",
    shape: options.ShapeOption = None,
    arg: options.ArgOption = None,
    dtype: options.DtypeOption = "f32",
    device: options.DeviceOption = "cpu",
    backend: options.BackendOption = "auto",
    machine: options.MachineOption = None,
    backward: options.BackwardOption = False,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write it.")] = None,
) -> None:
    """Print a function's IR or generated code after a stage: what attnc saw, decided and wrote.

    Text in a pipe is plain, so that `attnc dump f.py:f --stage attn | attnc opt -p dilation` works.
    """
    from ..driver import STAGES
    from ..errors import StageError, nearest
    from . import console
    from .lowering import lower

    if stage not in STAGES:
        raise StageError(f"unknown --stage {stage!r}{nearest(stage, STAGES)}")
    lowered = lower(target, shape, arg, dtype, device, backend, machine)
    if backward:
        lowered = lowered.backward()
    console.write(lowered.ir(stage), output, python=stage in console.PYTHON_STAGES)
