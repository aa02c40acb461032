"""From a target on the command line to a compiled or lowered function."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..driver import BACKENDS
from ..errors import nearest
from ..targets import Target, UsageError, load_target
from .inputs import derive

if TYPE_CHECKING:
    from ..lowered import Lowered


def compiled(target: Target, backend: str) -> Any:
    """The target as a compiled function for ``backend``; one that is compiled already is taken apart for that."""
    check_backend(backend)
    function = target.function
    eager = getattr(function, "eager", None)
    if eager is not None and backend == "auto":
        return function
    # The decorator belongs to a frontend, which the compiler may not import when it is itself imported.
    package = importlib.import_module(__package__.removesuffix(".compiler.cli"))
    return package.compile(eager or function, backend=backend, fallback="silent")


def check_backend(backend: str) -> None:
    known = ("auto", *BACKENDS)
    if backend not in known:
        raise UsageError(f"unknown --backend {backend!r}{nearest(backend, known)}")


def lower(
    text: str,
    shape: str | None,
    arg: Sequence[str] | None,
    dtype: str,
    device: str,
    backend: str,
    machine: str | None,
) -> Lowered:
    """The target lowered for inputs of the given sizes, none of which is allocated."""
    check_backend(backend)
    check_machine(machine)
    target = load_target(text)
    args, kwargs = derive(target, shape, arg, dtype, device, data=False)
    if machine is not None and not is_gpu(machine) and backend == "auto":
        backend = "cpu"
    lowered = compiled(target, "auto" if is_gpu(machine) else backend).lower(*args, **kwargs)
    # "cpu" is the processor at hand, which the backend knows better
    return lowered if machine in (None, "cpu") else lowered.on(machine)


def check_machine(machine: str | None) -> None:
    from ..analysis.cost import DEVICES, UnknownTargetError, device

    if machine in (None, "cpu"):
        return
    try:
        device(machine)
    except UnknownTargetError:
        raise UsageError(f"unknown --target {machine!r}{nearest(machine, ['cpu', *DEVICES])}") from None


def is_gpu(machine: str | None) -> bool:
    return machine is not None and machine.startswith(("sm_", "gfx"))
