"""What a printed module compares itself with when it is run: the meaning of the tile program that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...ir.interpret_tile import run_kernel
from ...ir.text import parse_module
from ...ir.tile import kernels_of

if TYPE_CHECKING:
    from torch import Tensor

# distance from the interpreter, which sums in another order, relative to the largest element
TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 3e-2, "float16": 4e-3}


def check(program: str, tensors: Sequence[Tensor], **sizes: int) -> None:
    """Interpret ``program`` on the same inputs and compare what was written, the last tensors; exits if it differs."""
    import torch

    (kernel,) = kernels_of(parse_module(program, "<TILE>")).values()
    first = len(tensors) - kernel.outputs.data
    expected = [x.cpu() if n < first else torch.zeros_like(x, device="cpu") for n, x in enumerate(tensors)]
    run_kernel(kernel, expected, sizes)
    # a result in float32 of inputs in bfloat16 has their precision
    limit = max(TOLERANCE.get(str(x.dtype).removeprefix("torch."), 0.0) for x in tensors)
    for name, found, exact in zip(kernel.names[first:], tensors[first:], expected[first:], strict=True):
        error = _difference(found.cpu().double(), exact.double())
        verdict = "right" if error <= limit else "WRONG"
        print(f"{name}: differs by {error:.2g} of its largest element, limit {limit:g}: {verdict}")  # noqa: T201
        if verdict == "WRONG":
            raise SystemExit(f"{kernel.sym_name.data}: the kernel computes something else than its tile program")


def _difference(found: Tensor, exact: Tensor) -> float:
    """The largest one over the largest element; infinite where other elements are infinite or no numbers."""
    live = exact.isfinite()
    if not found.isfinite().equal(live):
        return float("inf")
    if not live.any():
        return 0.0
    return float((found - exact)[live].abs().max()) / max(float(exact[live].abs().max()), 1e-30)
