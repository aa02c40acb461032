"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

TargetArgument = Annotated[
    str, typer.Argument(metavar="TARGET", help="path/file.py:function or package.module:function", show_default=False)
]
ShapeOption = Annotated[
    str | None,
    typer.Option(
        "--shape",
        metavar="SIZES",
        help="Sizes of the inputs: B=1,H=8,N=4096,D=64; also N_k, H_k, D_v where they differ. "
        "Without it the file's example_inputs() is called.",
        show_default=False,
    ),
]
ArgOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arg",
        metavar="NAME=VALUE",
        help="A further argument: a number (window=64) or, in brackets, the shape of a tensor (bias=[H,2*N-1]).",
        show_default=False,
    ),
]
DtypeOption = Annotated[str, typer.Option("--dtype", metavar="f32|f64|bf16|f16", help="Element type of the inputs.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="cpu|cuda", help="Where the inputs live.")]
BackendOption = Annotated[
    str, typer.Option("--backend", metavar="auto|cpu|triton|reference", help="The backend that runs the kernels.")
]
MachineOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="sm_90|sm_80|sm_100|gfx942|cpu",
        help="Compile for this machine instead of the one at hand; no GPU is needed.",
        show_default=False,
    ),
]
BackwardOption = Annotated[bool, typer.Option("--backward", help="Show the program that computes the gradients.")]
