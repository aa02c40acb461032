"""Mistakes that this backend reports: one class each."""

from __future__ import annotations

from ...ir.errors import AttncError


class TritonMissingError(AttncError):
    """Triton is not installed."""


class UnsupportedKernelError(AttncError):
    """A tile program that cannot be said in Triton."""


class UnknownTargetError(AttncError):
    """A GPU target that this backend does not know."""


class GridTooLargeError(AttncError):
    """More tasks than one launch can number."""


class WrongDeviceError(AttncError):
    """Tensors where Triton cannot run."""


class StaticToolError(AttncError):
    """A compiled artifact whose facts cannot be read."""
