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
    diff: Annotated[
        str | None,
        typer.Option(
            "--diff",
            metavar="all|PASS|PASS..PASS",
            help="Show what passes changed instead: each of them, one, or all from one to another.",
            show_default=False,
        ),
    ] = None,
    lines: Annotated[
        bool, typer.Option("--lines", help="Also show which of your lines each op came from (stages attn and tile).")
    ] = False,
    fold: Annotated[
        bool | None,
        typer.Option("--fold/--no-fold", help="Shorten long lists and constants; done in a terminal unless told."),
    ] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write it.")] = None,
) -> None:
    """Print a function's IR or generated code after a stage: what attnc saw, decided and wrote.

    Text in a pipe is plain and whole, so that `attnc dump f.py:f --stage attn | attnc opt -p dilation` works.
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
    if diff is not None:
        from .difference import difference

        console.write(difference(lowered, diff), output, fold=fold, language="diff")
        return
    if lines:
        from ...ir.text import print_module

        if stage not in ("attn", "tile"):
            raise StageError(f"--lines is for the stages attn and tile, not {stage}; attnc inspect traces the others")
        modules = list(lowered.with_lines.values())
        console.write(print_module(modules[0 if stage == "attn" else -1], lines=True), output, fold=fold)
        return
    language = "python" if stage in console.PYTHON_STAGES else "mlir"
    console.write(lowered.ir(stage), output, fold=fold, language=language)
