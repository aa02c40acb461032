"""Memory for results on the CPU, in large pages where the system lets a program ask for them.

The C library maps a large block anew each time and gives it back when it is freed.  Every page of it then faults when
it is first written, and is cleared: in pages of 4 KB that takes four times as long as writing does.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import torch

PAGE = 2 << 20  # bytes of a large page
LEAST = 2 * PAGE  # holds one wherever it starts
MADV_HUGEPAGE = 14


def empty(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """``torch.empty`` on the CPU."""
    made = torch.empty(shape, dtype=dtype, device=device)
    if made.nbytes >= LEAST:
        _ask(made)
    return made


def zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """``torch.zeros`` on the CPU."""
    return empty(shape, dtype=dtype, device=device).zero_()


@cache
def _madvise() -> Any:
    """The function of Linux; None elsewhere, where the number of the advice means something else."""
    if sys.platform != "linux":
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def _ask(x: torch.Tensor) -> None:
    """Ask for large pages within a block; a system that has none refuses, and nothing is lost."""
    start = x.data_ptr()
    first, end = -(-start // PAGE) * PAGE, (start + x.nbytes) // PAGE * PAGE
    if (madvise := _madvise()) is not None:
        madvise(first, end - first, MADV_HUGEPAGE)
