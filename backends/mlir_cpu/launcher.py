"""Runs a loaded kernel on PyTorch's own OpenMP threads."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..api import forked
from .errors import ArgumentError, ObjectFileError
from .object_file import load_object

# read by kernels in place of tensors without elements, whose indices are clamped to 0
_NOTHING = ctypes.create_string_buffer(64)
_NOTHING_ADDRESS = ctypes.addressof(_NOTHING)


@cache
def _parallel() -> Any:
    """``GOMP_parallel(function, data, threads, flags)`` of the runtime that PyTorch runs on, if there is one."""
    libraries: list[str | None] = [None]
    libraries += map(str, sorted(Path(torch.__file__).with_name("lib").glob("libgomp*")))
    for library in libraries:
        try:
            function = ctypes.CDLL(library).GOMP_parallel
        except (OSError, AttributeError):
            continue
        function.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint]
        function.restype = None
        return function
    return None


@cache
def _libraries() -> list[ctypes.CDLL]:
    found = [ctypes.CDLL(None)]
    for name in ("libm.so.6", "libm.so"):
        try:
            found.append(ctypes.CDLL(name))
            break
        except OSError:
            continue
    return found


def resolve(symbol: str) -> int:
    """Address of a C library function that compiled code calls."""
    for library in _libraries():
        try:
            return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value or 0
        except AttributeError:
            continue
    raise ObjectFileError(f"a kernel calls {symbol!r}, which no loaded library has")


class CompiledKernel:
    """Callable with (tensors, sizes).  Safe in threads: every call has its own argument array and counter."""

    def __init__(self, payload: bytes, meta: Mapping[str, Any]):
        self.name: str = meta["name"]
        self._object = load_object(payload, resolve)  # keeps the code mapped
        self._ranks: list[int] = meta["ranks"]
        self._dtypes = [getattr(torch, d) for d in meta["dtypes"]]
        self._sizes: list[str] = meta["sizes"]
        self._size_limit = 2**30 // meta["index_factor"]
        self._slots = 1 + sum(1 + 2 * r for r in self._ranks) + len(self._sizes)
        self._body = self._object.symbols[self.name]
        self._pack = struct.Struct(f"{self._slots}q").pack
        self._run_here = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(self._body)
        self._tasks = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(self._object.symbols[f"{self.name}.tasks"])

    def __call__(self, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> None:
        values: list[int] = []
        for t, rank, dtype in zip(tensors, self._ranks, self._dtypes, strict=False):
            shape = t.shape
            if t.dtype is not dtype or len(shape) != rank or not t.is_cpu:
                break
            values += (t.data_ptr(), *shape, *t.stride())
        values += [sizes[name] for name in self._sizes]
        if 1 + len(values) != self._slots or len(tensors) != len(self._ranks):
            self._explain(tensors)
        self.start(*values)

    def start(self, *values: int) -> None:
        """Run on arguments that are checked: address, sizes and strides of every tensor, then the size symbols."""
        if self._sizes and max(values[-len(self._sizes) :]) > self._size_limit:
            sizes = dict(zip(self._sizes, values[-len(self._sizes) :], strict=True))
            raise ArgumentError(f"kernel {self.name}: a size of {sizes} exceeds {self._size_limit}")
        if not all(values):  # the address of a tensor without elements, or just a size or a stride
            values = self._with_addresses(values)
        slots = self._pack(0, *values)  # new memory, which starts with the counter of tasks
        tasks = self._tasks(slots)
        if tasks > 1 and (threads := min(tasks, 1 if forked.is_set() else torch.get_num_threads())) > 1:
            parallel = _parallel()
            if parallel is not None:
                parallel(self._body, slots, threads, 0)
                return
        if tasks:
            self._run_here(slots)

    def _with_addresses(self, values: Sequence[int]) -> tuple[int, ...]:
        """The same, with something to read for tensors without elements."""
        found, at = list(values), 0
        for n, rank in enumerate(self._ranks):
            if not found[at]:
                if all(found[at + 1 : at + 1 + rank]):
                    raise ArgumentError(f"kernel {self.name}: argument {n} has no memory; pass a copy: x.clone()")
                found[at] = _NOTHING_ADDRESS
            at += 1 + 2 * rank
        return tuple(found)

    def _explain(self, tensors: Sequence[torch.Tensor]) -> NoReturn:
        """Say which argument is wrong."""
        for n, (t, rank, dtype) in enumerate(zip(tensors, self._ranks, self._dtypes, strict=False)):
            if t.dtype is not dtype or t.dim() != rank or not t.is_cpu:
                raise ArgumentError(
                    f"kernel {self.name}: argument {n} must be a CPU tensor of {dtype} and rank {rank}, "
                    f"not {t.dtype} and rank {t.dim()} on {t.device}"
                )
        raise ArgumentError(f"kernel {self.name} takes {len(self._ranks)} tensors, not {len(tensors)}")
