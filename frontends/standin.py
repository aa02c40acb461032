"""Real tensors without memory that stand in for ones that have no data of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import _disable_current_modes

from .errors import TransformError


@contextmanager
def ordinary() -> Iterator[None]:
    """PyTorch as in a plain eager program, whatever looks on from outside."""
    with temporarily_clear_interpreter_stack(), _disable_current_modes():
        yield


def stand_in(x: torch.Tensor) -> torch.Tensor:
    """A tensor of the type, device and, where known, sizes of ``x``: one element, repeated."""
    if x.is_nested or x.layout is not torch.strided:
        raise TransformError(
            f"a compiled function takes strided tensors, found {type(x).__name__} of layout {x.layout}"
        )
    shape = [size_hint(n) for n in x.shape]
    with ordinary():
        return torch.zeros((), dtype=x.dtype, device=x.device).expand(shape)


def size_hint(n: Any) -> int:
    """A size as in the example call that is being traced."""
    if not isinstance(n, torch.SymInt):
        return n
    hint = n.node.hint
    if hint is None:
        raise TransformError(
            f"the size {n} depends on data and has no value while the model is traced; call the compiled function on "
            "tensors of known sizes"
        )
    return int(hint)
