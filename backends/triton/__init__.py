"""The triton backend: tile kernels as readable Triton source, for NVIDIA and AMD GPUs.

Reading order: ``module`` (a whole file), ``emit`` and ``loops`` (statements), ``scalars`` (expressions),
``layout`` (axes), ``config`` (targets, warps, stages), ``launch`` (running), ``ahead`` (compiling without a
GPU), ``static`` and ``assembly`` (facts of the result), ``interpreter`` (running without a GPU), ``selfcheck`` (what a
dump compares itself with).
"""

from __future__ import annotations

from ..api import Backend


def backend() -> Backend:
    """The backend, as the driver finds it."""
    from .triton_backend import TritonBackend  # not "backend": a submodule would hide this function

    return TritonBackend()
