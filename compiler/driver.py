"""The driver: from the text of a captured graph to a :class:`Plan` that runs it, by way of the caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .plan import Plan

if TYPE_CHECKING:
    import torch
    from xdsl.dialects.builtin import ModuleOp

    from .lowered import Lowered

BACKENDS = ("cpu", "triton", "reference")
STAGES = ("capture", "attn", "tile", "mlir", "llvm", "triton", "ttir", "ttgir", "ptx")


def select_backend(backend: str, device: torch.device) -> str:
    """The name of the backend that ``"auto"`` stands for on this device; other names are checked."""
    raise NotImplementedError


def build(
    key: str,
    make_module: Callable[[], ModuleOp],
    *,
    backend: str,
    dtype: str,
    device: torch.device,
    options: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan for the program that ``key`` (the canonical text of its graph) stands for.

    ``make_module`` is called only if neither memory nor disk holds the plan; xDSL is imported only then.
    ``dtype`` is the name of the query's element type (``"f32"``).
    """
    raise NotImplementedError


def lower(
    key: str,
    make_module: Callable[[], ModuleOp],
    *,
    backend: str,
    dtype: str,
    device: torch.device,
    options: Mapping[str, Any] | None = None,
    target: str | None = None,
    hints: Mapping[str, int] | None = None,
    eager: Any = (),
) -> Lowered:
    """The same program, for looking at: see :class:`Lowered`.

    ``hints`` are the sizes at hand (for costs); ``eager`` is what the frontend keeps eager, handed through to
    ``explain``.
    """
    raise NotImplementedError
