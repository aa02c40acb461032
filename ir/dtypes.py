"""Element types: their names in IR text, and PyTorch's dtypes for them (imported only when asked)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdsl.dialects.builtin import ComplexType, IntegerType, Signedness, bf16, f16, f32, f64, i1
from xdsl.ir import Attribute

if TYPE_CHECKING:
    import torch

# name in IR text -> (element type, torch attribute, bytes)
_TYPES: dict[str, tuple[Attribute, str, int]] = {
    "f64": (f64, "float64", 8),
    "f32": (f32, "float32", 4),
    "bf16": (bf16, "bfloat16", 2),
    "f16": (f16, "float16", 2),
    "i64": (IntegerType(64), "int64", 8),
    "i32": (IntegerType(32), "int32", 4),
    "i16": (IntegerType(16), "int16", 2),
    "i8": (IntegerType(8), "int8", 1),
    "ui8": (IntegerType(8, Signedness.UNSIGNED), "uint8", 1),
    "i1": (i1, "bool", 1),
    # between calls to PyTorch only
    "c128": (ComplexType(f64), "complex128", 16),
    "c64": (ComplexType(f32), "complex64", 8),
}
FLOATS = ("f64", "f32", "bf16", "f16")
SMOOTH = (*FLOATS, "c128", "c64")  # there may be gradients of these


def element(name: str) -> Attribute:
    """The element type called ``name``, such as ``bf16``."""
    return _TYPES[name][0]


def name_of(type: Attribute) -> str:
    """The name of an element type in IR text."""
    return next(name for name, (known, _, _) in _TYPES.items() if known == type)


def itemsize(type: Attribute) -> int:
    """Bytes per element."""
    return _TYPES[name_of(type)][2]


def accumulator(type: Attribute) -> Attribute:
    """The type in which values of this float type are computed and summed."""
    return f64 if type == f64 else f32


def to_torch(type: Attribute) -> torch.dtype:
    """PyTorch's dtype for an element type."""
    import torch

    return getattr(torch, _TYPES[name_of(type)][1])


def torch_name(type: Attribute) -> str:
    """The attribute of ``torch`` for an element type: ``bfloat16``."""
    return _TYPES[name_of(type)][1]


def from_torch(dtype: torch.dtype) -> str:
    """The name in IR text of a PyTorch dtype; KeyError if the IR has none (8-bit floats, quantised)."""
    short = str(dtype).removeprefix("torch.")
    return {torch_name: name for name, (_, torch_name, _) in _TYPES.items()}[short]
