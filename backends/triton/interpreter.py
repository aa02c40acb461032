"""Triton's interpreter, usable in any process and without ``TRITON_INTERPRET``.

Triton decides when it is imported whether its own library (``tl.sum``, ``tl.max``) is compiled or interpreted.
Here the library is swapped while a kernel runs and put back afterwards.  The interpreter keeps bfloat16 as
raw 16-bit words, truncates where a GPU rounds to nearest even, and multiplies those words as integers in
``tl.dot``, and conditions of one value as integers; the conversions below are right.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import triton.language as tl
from triton import knobs
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

from .importing import import_file

_lock = threading.RLock()  # the swap is global to the process, and so no process forks within one
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_swapped: dict[int, Any] = {}


def load(path: str | Path) -> ModuleType:
    """Import a printed module so that its ``launch`` interprets the kernel, on tensors of any device."""
    with _lock, _interpreting():
        module = import_file(path)
    compiled_launch = module.launch
    vars(module)["launch"] = lambda *args, **sizes: _run(compiled_launch, args, sizes)
    return module


def interpreted(module: dict[str, Any]) -> Callable[..., None]:
    """The ``launch`` of a module that is imported already, given its globals, so that it interprets the kernel."""
    for name, member in list(module.items()):
        if isinstance(member, JITFunction):
            module[name] = interpreter.InterpretedFunction(member.fn)
    compiled_launch = module["launch"]
    return lambda *args, **sizes: _run(compiled_launch, args, sizes)


def _run(launch: Callable[..., None], args: tuple[Any, ...], sizes: dict[str, int]) -> None:
    with _lock, _interpreting(), np.errstate(all="ignore"):
        launch(*args, **sizes)


@contextmanager
def _interpreting() -> Iterator[None]:
    """Inside, ``triton.jit`` and Triton's library interpret."""
    builder = interpreter.InterpreterBuilder
    saved: list[tuple[Any, str, Any]] = []

    def swap(owner: Any, name: str, value: Any) -> None:
        saved.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    try:
        if not knobs.runtime.interpret:
            swap(knobs.runtime, "interpret", True)
        for module in (tl, tl.core, tl.standard, tl.math):
            for name, member in list(vars(module).items()):
                if isinstance(member, JITFunction):
                    swap(module, name, _interpreted(member))
        for name in ("cast_impl", "create_fp_ext", "create_fp_trunc"):
            swap(builder, name, _cast)
        swap(builder, "create_fp_to_fp", lambda self, source, type, rounding: _cast(self, source, type))
        swap(builder, "create_dot", _dot)
        swap(builder, "create_splat", _splat)
        # Else every sum of integers is computed once more in 64 bits, half of the time.  A GPU wraps as NumPy does.
        options = interpreter.interpreter_builder.options
        swap(interpreter.interpreter_builder, "options", replace(options, sanitize_overflow=False))
        swap(interpreter, "_patch_lang_tensor", _patch_tensor)
        swap(interpreter, "_patch_lang", _patch_language)
        yield
    finally:
        for owner, name, value in reversed(saved):
            setattr(owner, name, value)


def _interpreted(function: JITFunction) -> Any:
    if id(function) not in _swapped:
        _swapped[id(function)] = interpreter.InterpretedFunction(function.fn)
    return _swapped[id(function)]


_patch_lang_tensor = interpreter._patch_lang_tensor


def _patch_tensor(tensor: type, scope: Any) -> None:
    # Triton 3.6 hands int() an array of one element, which NumPy 2.4 refuses.
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))


_patch_lang = interpreter._patch_lang
_scopes: list[Any] = []  # what was patched since a kernel was started


def _patch_language(function: Any) -> Any:
    """Triton patches its language for a kernel and for each function that this calls, but restores only the first."""
    _scopes.append(_patch_lang(function))
    return SimpleNamespace(restore=_restore_language)


def _restore_language() -> None:
    while _scopes:
        _scopes.pop().restore()


# ---- bfloat16 -----------------------------------------------------------------------------------------


def bfloat16_to_float32(words: np.ndarray) -> np.ndarray:
    """The values of bfloat16 words."""
    return (words.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """bfloat16 words of float32 values, rounded to nearest even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


_cast_impl = interpreter.InterpreterBuilder.cast_impl


def _cast(self: Any, source: Any, type: Any) -> Any:
    of, to = source.dtype.scalar, type.scalar
    if tl.bfloat16 not in (of, to) or of == to:
        return _cast_impl(self, source, type)
    data = bfloat16_to_float32(source.data) if of == tl.bfloat16 else source.data.astype(np.float32)
    if to == tl.bfloat16:
        return interpreter.TensorHandle(float32_to_bfloat16(data), to)
    return _cast_impl(self, interpreter.TensorHandle(data, tl.float32), type)


_splat_impl = interpreter.InterpreterBuilder.create_splat


def _splat(self: Any, type: Any, source: Any) -> Any:
    """A condition stays one: the interpreter makes it an integer, which no load takes for a mask."""
    found = _splat_impl(self, type, source)
    return interpreter.TensorHandle(found.data.astype(bool), tl.int1) if source.data.dtype == bool else found


def _dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
    """The product, rounded once: in which order a GPU sums is not NumPy's to say, whose errors differ between CPUs."""

    def values(x: Any) -> np.ndarray:
        data = bfloat16_to_float32(x.data) if x.dtype.scalar == tl.bfloat16 else x.data
        return data.astype(np.float64)

    return interpreter.TensorHandle((np.matmul(values(a), values(b)) + d.data).astype(d.data.dtype), d.dtype.scalar)
