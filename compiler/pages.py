"""Memory for results on the CPU: a large one lies in large pages, and a block that nobody has any more is used again.

The C library maps a large block anew each time and gives it back when it is freed.  Every page of it then faults when
it is first written, and is cleared: in pages of 4 KB that takes four times as long as writing does, and even in large
ones a good part of what the kernel of a narrow mask takes.  So up to :data:`LIMIT` bytes of blocks stay with the
process, and a result of as many bytes gets one that no tensor, view, array or saved gradient holds any more.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections import deque
from contextlib import suppress
from functools import cache
from typing import Any

import torch

PAGE = 2 << 20  # bytes of a large page
LEAST = 2 * PAGE  # holds one wherever it starts
MADV_HUGEPAGE = 14
KEPT = 128 << 10  # bytes of the smallest block that is kept: the C library has smaller ones at hand
LIMIT = 256 << 20  # bytes of all blocks that are kept
EACH = 16  # blocks of one size: each may have to be asked whether it is free

_use_count = getattr(torch._C, "_storage_Use_Count", None)


class _Block:
    """Memory that was a result's, and may still be."""

    def __init__(self, x: torch.Tensor):
        self.storage = x.untyped_storage()
        self.address = x.data_ptr()

    def references(self) -> tuple[int, int]:
        """Those of C++, of which Python's share one, and Python's."""
        return _use_count(self.storage._cdata), sys.getrefcount(self.storage)

    def is_free(self) -> bool:
        """Has nobody else the memory?"""
        return self.references() == _alone()

    def is_whole(self) -> bool:
        """Is it the memory that it was?  ``share_memory_()`` and ``resize_()`` change that."""
        return self.storage.data_ptr() == self.address


@cache
def _alone() -> tuple[int, int]:
    """The references of a block that nobody else has, which hang on the version of Python."""
    return _Block(torch.empty(1)).references()


# Bytes -> blocks, sizes in the order in which one was last made.  No lock, which a fork could leave locked: each
# operation is atomic, and where threads interfere a block is forgotten and nothing else.
_kept: dict[int, deque[_Block]] = {}


def empty(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """``torch.empty`` on the CPU."""
    size = math.prod(shape) * dtype.itemsize
    if size < KEPT:
        return torch.empty(shape, dtype=dtype, device=device)
    if (again := _again(size, shape, dtype)) is not None:
        return again
    made = torch.empty(shape, dtype=dtype, device=device)
    if size >= LEAST:
        _ask(made)
    if size <= LIMIT and _use_count is not None:
        _keep(size, _Block(made))
    return made


def zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """``torch.zeros`` on the CPU."""
    return empty(shape, dtype=dtype, device=device).zero_()


def release_memory() -> None:
    """Give memory on the CPU back to the system that was a result's, and that nobody has any more.

    Up to 256 MiB stay with the process otherwise, for results of the same size.
    """
    _kept.clear()


def _again(size: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor | None:
    """A result in a block that nobody has."""
    blocks = _kept.get(size)
    if blocks is None:
        return None
    for _ in range(len(blocks)):
        try:
            block = blocks.popleft()
        except IndexError:  # other threads have the rest in their hands
            return None
        if not block.is_whole():
            continue
        free = block.is_free()
        if free:
            made = torch.empty(0, dtype=dtype).set_(block.storage, 0, shape)  # type: ignore[call-overload]
        blocks.append(block)  # not before the result has it, for another thread may look at it at once
        if free:
            return _unwritten(made) if torch.are_deterministic_algorithms_enabled() else made
    return None


def _keep(size: int, block: _Block) -> None:
    blocks = _kept.pop(size, deque[_Block](maxlen=EACH))
    blocks.append(block)
    _kept[size] = blocks
    excess = sum(n * len(held) for n, held in list(_kept.items())) - LIMIT
    for oldest, held in list(_kept.items()):
        while held and excess > 0:
            with suppress(IndexError):  # another thread was faster
                held.popleft()
            excess -= oldest
        if excess <= 0:
            break
        _kept.pop(oldest, None)


def _unwritten(x: torch.Tensor) -> torch.Tensor:
    """``x`` as ``torch.empty`` leaves it in PyTorch's deterministic mode."""
    if not torch.utils.deterministic.fill_uninitialized_memory:  # type: ignore[attr-defined]
        return x
    if x.dtype.is_floating_point or x.dtype.is_complex:
        return x.fill_(math.nan)
    return x.fill_(True if x.dtype is torch.bool else torch.iinfo(x.dtype).max)


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
