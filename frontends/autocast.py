"""Automatic mixed precision: which ops of a trace compute in another element type under ``torch.autocast``.

Autocast works below the level that the tracer sees, so the tracer writes the casts down itself, and whatever runs
later (the plan, PyTorch's calls in it) runs with autocast off.  Which ops take part is asked of PyTorch's dispatcher
for the device at hand; what happens to them is said here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from .graph import leaves, map_arg
from .rules.products import explicit_terms
from .traced import Traced

if TYPE_CHECKING:
    from .tracer import Tracer

active: Callable[[], bool] = torch._C._is_any_autocast_enabled  # of any device; the quick question of each call

_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}
# in the type that the user chose; every other op of autocast computes in float32 or in the widest type it meets
_LOW = """conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d prelu addmm addmv addr matmul
einsum mm mv linalg_vecdot linear addbmm baddbmm bmm chain_matmul linalg_multi_dot lstm_cell gru_cell rnn_tanh_cell
rnn_relu_cell scaled_dot_product_attention"""
_WIDEST = "addcdiv addcmul atan2 bilinear cross dot vdot index_put tensordot scatter_add cat stack index_copy"
# ops of torch.nn.functional that the tracer takes as one -> what they are made of
_MADE_OF = {"softmin": "softmax", "normalize": "linalg_vector_norm", "multi_head_attention_forward": "linear"}


def state(device_type: str) -> torch.dtype | None:
    """The type that autocast computes matrix products in on this kind of device; None where it is off."""
    if active() and device_type in _KEYS and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None


@contextmanager
def switched(device_type: str, to: torch.dtype | None) -> Iterator[None]:
    """Autocast as :func:`state` gave it."""
    if state(device_type) == to:
        yield
        return
    before, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    try:
        torch.set_autocast_enabled(device_type, to is not None)
        if to is not None:
            torch.set_autocast_dtype(device_type, to)
        yield
    finally:
        torch.set_autocast_enabled(device_type, before)
        torch.set_autocast_dtype(device_type, dtype)


def off(device_type: str) -> AbstractContextManager[None]:
    """Autocast off, for a plan, which holds its casts."""
    return switched(device_type, None) if active() else nullcontext()


def cast(t: Tracer, func: Any, low: torch.dtype, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of an op as autocast hands them on."""
    name = _aten_name(func)
    found = [x.dtype for x in leaves((list(args), kwargs)) if _takes_part(x)]
    if not found or not (_listed(name, t.device.type) or (name == "einsum" and _contracts(args))):
        return args, kwargs
    if name in _LOW.split():
        to = low
    elif name in _WIDEST.split():
        to = found[0]
        for dtype in found:
            to = torch.promote_types(to, dtype)
    elif any(isinstance(x, torch.dtype) for x in leaves((list(args), kwargs))):
        return args, kwargs  # the user's choice
    else:
        to = torch.float32

    def casted(x: Any) -> Any:
        return x.to(to) if _takes_part(x) else x

    return map_arg(args, casted), map_arg(kwargs, casted)


def _takes_part(x: Any) -> bool:
    return isinstance(x, Traced) and x.dtype.is_floating_point and x.dtype != torch.float64


def _aten_name(func: Any) -> str:
    name = func.__name__.split(".")[0]
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        name = name[1:] if name in ("rmatmul", "rpow") else name
    return _MADE_OF.get(name, name)


@cache
def _listed(name: str, device_type: str) -> bool:
    """Does autocast have a kernel for some overload of this op?"""
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return False
    names = [f"aten::{name}" + (f".{o}" if o != "default" else "") for o in packet.overloads()]
    known = [n for n in names if torch._C._dispatch_has_kernel(n)]  # some are TorchScript's alone
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(n, _KEYS[device_type]) for n in known)


def _contracts(args: Any) -> bool:
    """Does this einsum sum products?  It is a batched matrix product then."""
    operands = [x for x in leaves(list(args[1:])) if isinstance(x, Traced)]
    terms, result = explicit_terms(args[0], [x.dim() for x in operands])
    return any(letter not in result for letter in "".join(terms) if sum(letter in t for t in terms) > 1)
