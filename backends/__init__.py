"""Backends by name, imported when first asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from ..ir.errors import AttncError
from .api import Artifact, Backend, Launch

BACKENDS = {
    "cpu": "mlir_cpu",
    "triton": "triton",
    "reference": "reference",
}


class UnknownBackendError(AttncError):
    """A backend name that is not in the table."""


@cache
def get_backend(name: str) -> Backend:
    """The backend called ``name``."""
    if name not in BACKENDS:
        raise UnknownBackendError(f"no backend {name!r}; choose one of {', '.join(sorted(BACKENDS))}")
    return import_module(f".{BACKENDS[name]}", __name__).backend()


__all__ = ["BACKENDS", "Artifact", "Backend", "Launch", "UnknownBackendError", "get_backend"]
