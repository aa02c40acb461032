"""Changes of element type, and questions about a tensor that need no op."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from ..errors import DeviceError, UnsupportedOpError
from ..locate import with_text
from ..traced import Traced
from .registry import early

if TYPE_CHECKING:
    from ..tracer import Tracer

_TYPES = {"float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16,
          "int": torch.int32, "long": torch.int64, "short": torch.int16, "char": torch.int8, "byte": torch.uint8,
          "bool": torch.bool}  # fmt: skip


def converted(t: Tracer, input: Traced, dtype: torch.dtype) -> Traced:
    if dtype == input.dtype:
        return input
    # Kernels compute in wider types, so that conversions between floats mean nothing to them. One to a narrower type
    # than any argument has is there for its rounding, as in simulated quantisation, and is not such an op.
    op = "round_to" if input.dtype.is_floating_point and _bits(dtype) < _given_bits(t) else "to"
    return t.emit(op, {"input": input, "dtype": dtype}, input.node.shape, "{input}.to({dtype})", dtype=dtype)


def _bits(dtype: torch.dtype) -> float:
    """Of the significand."""
    return -math.log2(torch.finfo(dtype).eps) if dtype.is_floating_point else math.inf


def _given_bits(t: Tracer) -> float:
    """Of the narrowest type that an argument, or autocast, brings in."""
    kinds = [n.dtype for n in t.graph.inputs if n.rank and n.dtype.is_floating_point]
    return min(map(_bits, [*kinds, t.low] if t.low else kinds), default=0.0)


@early(*_TYPES)
def named_type(t: Tracer, input: Traced, **options: Any) -> Traced:
    return converted(t, input, _TYPES[t.op])


@early("to", "type", "type_as", "cpu", "cuda", "_to_copy")
def to(t: Tracer, input: Traced, *args: Any, **kwargs: Any) -> Any:
    if t.op == "type" and not args and not kwargs:
        return f"torch.{ {v: k for k, v in _TYPES.items()}[input.dtype].capitalize() }Tensor"
    dtype, device = kwargs.get("dtype"), kwargs.get("device")
    if t.op in ("cpu", "cuda"):
        device = t.op
    for x in (*args, kwargs.get("other")):
        if isinstance(x, torch.dtype):
            dtype = x
        elif isinstance(x, torch.device | str):
            device = x
        elif isinstance(x, Traced):
            dtype = x.dtype
    if device is not None and torch.device(device).type != t.device.type:
        raise DeviceError(
            f"{with_text(t.location)}: moves a tensor to {device}, but the arguments are on {t.device}; a compiled "
            "function stays on one device, so move tensors before the call"
        )
    result = converted(t, input, input.dtype if dtype is None else dtype)
    return Traced(t, result.node) if kwargs.get("copy") and result is input else result


@early("is_floating_point", "is_complex", "is_signed", "result_type", "can_cast", "is_contiguous", "layout")
def question(t: Tracer, *args: Any, **kwargs: Any) -> Any:
    if t.op in ("is_contiguous", "layout"):
        return True if t.op == "is_contiguous" else torch.strided
    ones = [torch.ones((1,) * x.dim(), dtype=x.dtype) if isinstance(x, Traced) else x for x in args]
    with torch._C.DisableTorchFunction():
        return getattr(torch, t.op)(*ones)


@early(
    "is_cuda", "is_cpu", "is_sparse", "is_quantized", "is_meta", "is_nested", "is_mkldnn", "is_leaf", "is_mps", "is_xpu"
)
def flag(t: Tracer, input: Traced) -> bool:
    return t.op == "is_leaf" or t.op == f"is_{t.device.type}"


@early("grad", "grad_fn", "names", "_base")
def nothing(t: Tracer, input: Traced) -> None:
    return None


@early("requires_grad_", "retain_grad", "register_hook")
def unsupported_grad(t: Tracer, input: Traced, *args: Any, **kwargs: Any) -> None:
    raise UnsupportedOpError(
        f"{with_text(t.location)}: {t.op} inside a compiled function; call it on the arguments or the result"
    )


@early("stride", "data_ptr", "storage_offset", "untyped_storage", "as_strided", "set_", "resize_")
def memory(t: Tracer, *args: Any, **kwargs: Any) -> None:
    raise UnsupportedOpError(
        f"{with_text(t.location)}: {t.op} depends on how a tensor lies in memory, which a compiled function does not "
        "fix; use reshape, indexing or unfold"
    )


@early("get_device")
def get_device(t: Tracer, input: Traced) -> int:
    return -1 if t.device.type == "cpu" else t.device.index or 0
