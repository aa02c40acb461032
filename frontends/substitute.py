"""Run code with some tensors standing in for others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .graph import map_arg


class _Substitute(TorchFunctionMode):
    def __init__(self, new: dict[int, torch.Tensor]):
        super().__init__()
        self.new = new

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def swap(x: Any) -> Any:
            return self.new.get(id(x), x) if isinstance(x, torch.Tensor) else x

        return func(*map_arg(tuple(args), swap), **map_arg(kwargs or {}, swap))


@contextmanager
def substituted(old: Sequence[torch.Tensor], new: Sequence[torch.Tensor]) -> Iterator[None]:
    """Within, an op given a tensor of ``old`` works on its counterpart in ``new``."""
    if not old:
        yield
        return
    with _Substitute({id(a): b for a, b in zip(old, new, strict=True)}):
        yield
