"""``attnc bench``: how much faster is the compiled function."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options


def bench(
    target: options.TargetArgument,
    shape: options.ShapeOption = None,
    arg: options.ArgOption = None,
    dtype: options.DtypeOption = "f32",
    device: options.DeviceOption = "cpu",
    backend: options.BackendOption = "auto",
    backward: Annotated[bool, typer.Option("--backward", help="Time the backward too.")] = False,
    against: Annotated[
        str, typer.Option(metavar="NAMES", help="Whom to compare with, separated by commas.")
    ] = "eager,sdpa,flex",
    rounds: Annotated[int, typer.Option(help="Turns of each contender; the median counts.", min=1)] = 10,
    output: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Also write the times, the machine and the versions.")
    ] = None,
) -> None:
    """Time a function compiled, eagerly, and as calls of SDPA and FlexAttention that compute the same.

    The contenders take turns in one process.  A mask tensor or block mask that SDPA or FlexAttention needs is made in
    advance and not timed.
    """
    import json

    from ..errors import nearest
    from ..targets import UsageError, load_target
    from .console import write
    from .contest import CONTENDERS
    from .contest import bench as run
    from .inputs import derive
    from .lowering import compiled
    from .timing import machine, show

    names = [n.strip() for n in against.split(",") if n.strip()]
    for name in names:
        if name not in CONTENDERS:
            raise UsageError(f"--against: there is no contender {name!r}{nearest(name, CONTENDERS)}")
    found = load_target(target)
    args, kwargs = derive(found, shape, arg, dtype, device, data=True)
    result = run(compiled(found, backend), args, kwargs, rounds=rounds, backward=backward, against=names)
    show(result.comparisons, f"{found.text}  {shape or 'example_inputs()'} {dtype}")
    for name, reason in result.absent.items():
        print(f"{name}: not compared: {reason}")
    if output is not None:
        data = {"target": found.text, "shape": shape, "dtype": dtype, "machine": machine(), "absent": result.absent}
        write(json.dumps(data | {"rows": [c.to_json() for c in result.comparisons]}, indent=1), output)
