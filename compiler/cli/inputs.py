"""Inputs for a target: from ``--shape`` and the names of the parameters, or from ``example_inputs()``.

``example_inputs()`` returns arguments: a tuple, a dictionary by parameter, both, or one value.  In a file of several
functions it may return a dictionary by the names of functions, with a tuple of arguments for each.

``--shape`` names sizes: ``B, H, N, D``, and ``N_k, H_k, D_v`` where keys or values differ.  A parameter called
``q``, ``k`` or ``v`` (or ``query``, ``key``, ``value``) gets a tensor ``(B, H, N, D)``; others are given with
``--arg``.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...ir.expr import ExprSyntaxError, evaluate, free_vars, parse_map
from ..errors import nearest
from ..targets import Target, UsageError

if TYPE_CHECKING:
    import torch

DTYPES = {"f32": "float32", "f64": "float64", "bf16": "bfloat16", "f16": "float16"}
ROLES = {"q": "query", "query": "query", "k": "key", "key": "key", "v": "value", "value": "value"}
SIZES = ("B", "H", "N", "D", "H_k", "N_k", "D_v")

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class InputsError(UsageError):
    """Inputs that cannot be derived from the options given."""


def parse_sizes(text: str) -> dict[str, int]:
    """``"B=1,H=8,N=4096,D=64"`` as a dictionary.  Any names may be given, so that ``--arg`` can use them."""
    sizes: dict[str, int] = {}
    for part in filter(None, (p.strip() for p in text.replace(" ", ",").split(","))):
        name, equals, value = (p.strip() for p in part.partition("="))
        if not equals or not name.isidentifier() or not value.replace("_", "").isdigit():
            raise InputsError(f"cannot read {part!r} in --shape {text!r}: write sizes such as B=1,H=8,N=4096,D=64")
        if name in sizes:
            raise InputsError(f"--shape gives {name} twice: {text!r}")
        sizes[name] = int(value)
    if not sizes:
        raise InputsError("--shape is empty: write sizes such as B=1,H=8,N=4096,D=64")
    return sizes


def torch_dtype(text: str) -> torch.dtype:
    """The torch dtype that ``f32``, ``bfloat16``, ... names."""
    import torch

    name = DTYPES.get(text, text)
    if name not in DTYPES.values():
        raise InputsError(f"unknown --dtype {text!r}{nearest(text, DTYPES)}")
    return getattr(torch, name)


def derive(
    target: Target, shape: str | None, args: Sequence[str] | None, dtype: str, device: str, *, data: bool
) -> Inputs:
    """Positional and keyword arguments for ``target``.

    With ``data`` tensors are random and of full size; without, they are zero-stride views of one element, so
    that a length of a million costs nothing: enough to trace and compile.
    """
    if shape is None:
        if args:
            raise InputsError("--arg needs --shape")
        return _converted(_from_example(target), dtype, device, data)
    sizes = parse_sizes(shape)
    make = _Maker(torch_dtype(dtype), _device(device, data), data)
    given = dict(_parse_arg(a, sizes) for a in args or ())
    values: dict[str, Any] = {}
    parameters = _parameters(target)
    for name, parameter in parameters.items():
        if name in given:
            value = given.pop(name)
            values[name] = make(value) if isinstance(value, tuple) else value
        elif name in ROLES:
            values[name] = make(_role_shape(ROLES[name], sizes, shape))
        elif parameter.default is inspect.Parameter.empty and parameter.kind not in _VARIADIC:
            raise InputsError(
                f"{target.text}: do not know what to pass for the parameter {name!r}; give it with --arg "
                f"{name}=3 or --arg '{name}=[H, N]' (a tensor's shape), or define example_inputs() in the file"
            )
    if given:
        raise InputsError(f"--arg {min(given)}: {target.text} has no such parameter{nearest(min(given), parameters)}")
    if not any(_is_tensor(v) for v in values.values()):
        raise InputsError(
            f"{target.text} takes no parameter named q, k or v that --shape could fill "
            f"(it takes {', '.join(parameters) or 'none'}); define example_inputs() in the file"
        )
    return _as_call(parameters, values)


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class _Maker:
    """Makes tensors of one dtype and device; random ones are the same at every run."""

    def __init__(self, dtype: torch.dtype, device: torch.device, data: bool):
        import torch

        self.dtype, self.device, self.data = dtype, device, data
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, shape: Sequence[int]) -> torch.Tensor:
        import torch

        if self.data:
            return torch.randn(tuple(shape), generator=self.generator).to(self.device, self.dtype)
        return torch.zeros((), dtype=self.dtype, device=self.device).expand(tuple(shape))


def _device(text: str, data: bool) -> torch.device:
    import torch

    try:
        device = torch.device(text)
    except RuntimeError:
        raise InputsError(f"unknown --device {text!r}{nearest(text, ('cpu', 'cuda'))}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        if data:
            raise InputsError("--device cuda: PyTorch sees no GPU here; use --device cpu")
        raise InputsError("--device cuda: PyTorch sees no GPU here; --target sm_90 compiles for one without it")
    return device


def _from_example(target: Target) -> Inputs:
    example = target.example_inputs
    if example is None:
        raise InputsError(
            f"no inputs for {target.text}: give --shape B=1,H=8,N=4096,D=64, or define a function "
            "example_inputs() in that file that returns the arguments"
        )
    try:
        result = example()
    except Exception as error:
        raise InputsError(
            f"example_inputs() of {target.module.__name__} failed: {type(error).__name__}: {error}"
        ) from error
    match result:
        case dict() if result and all(callable(getattr(target.module, n, None)) for n in result):
            return _of_function(target, result), {}
        case (tuple() | list() as args, dict() as kwargs):
            return tuple(args), kwargs
        case dict() as kwargs:
            return (), kwargs
        case tuple() | list() as args:
            return tuple(args), {}
    return (result,), {}


def _converted(inputs: Inputs, dtype: str, device: str, data: bool) -> Inputs:
    """Arguments of a file in the type and on the device asked for; the defaults leave them as they are."""
    wanted, place = torch_dtype(dtype), _device(device, data)
    if dtype in ("f32", "float32") and place.type == "cpu":
        return inputs

    def converted(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return type(x)(map(converted, x)) if not hasattr(x, "_fields") else type(x)(*map(converted, x))
        if not _is_tensor(x):
            return x
        return x.to(place, wanted) if x.is_floating_point() else x.to(place)

    args, kwargs = inputs
    return tuple(map(converted, args)), {name: converted(x) for name, x in kwargs.items()}


def _of_function(target: Target, inputs: Mapping[str, Sequence[Any]]) -> tuple[Any, ...]:
    """The arguments of one function of a file whose ``example_inputs()`` names its functions."""
    name = target.text.rpartition(":")[2]
    if name not in inputs:
        raise InputsError(
            f"example_inputs() of {target.module.__name__} has arguments for {', '.join(inputs)}, and none for {name}"
        )
    return tuple(inputs[name])


def _parameters(target: Target) -> Mapping[str, inspect.Parameter]:
    function = getattr(target.function, "eager", target.function)
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise InputsError(f"{target.text} has no signature to read; define example_inputs() in the file") from None


def _role_shape(role: str, sizes: Mapping[str, int], text: str) -> tuple[int, ...]:
    missing = [n for n in ("B", "H", "N", "D") if n not in sizes]
    if missing:
        raise InputsError(f"--shape {text} lacks {', '.join(missing)}: query, key and value are (B, H, N, D)")
    heads, length = sizes["H"], sizes["N"]
    if role == "query":
        return sizes["B"], heads, length, sizes["D"]
    heads, length = sizes.get("H_k", heads), sizes.get("N_k", length)
    return sizes["B"], heads, length, sizes.get("D_v", sizes["D"]) if role == "value" else sizes["D"]


def _parse_arg(text: str, sizes: Mapping[str, int]) -> tuple[str, Any]:
    """``name=literal`` or ``name=[shape]``; a shape comes back as a tuple."""
    name, equals, value = (p.strip() for p in text.partition("="))
    if not equals or not name.isidentifier():
        raise InputsError(f"cannot read --arg {text!r}: write NAME=VALUE, such as window=64 or 'bias=[H, N]'")
    if value.startswith("[") and value.endswith("]"):
        return name, _parse_shape(name, value[1:-1], sizes)
    if value in sizes:
        return name, sizes[value]
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise InputsError(
            f"cannot read the value of --arg {text!r}: give a number, or a shape such as '[H, N]'"
        ) from None


def _parse_shape(name: str, text: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    try:
        exprs = parse_map(text)
    except ExprSyntaxError as error:
        raise InputsError(f"cannot read the shape of --arg {name}=[{text}]: {error}") from None
    unknown = sorted(set().union(*(free_vars(e) for e in exprs)) - sizes.keys())
    if unknown:
        raise InputsError(f"--arg {name}=[{text}]: --shape does not give {', '.join(unknown)}")
    return tuple(int(evaluate(e, sizes)) for e in exprs)


def _as_call(parameters: Mapping[str, inspect.Parameter], values: dict[str, Any]) -> Inputs:
    positional: list[Any] = []
    rest = dict(values)
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY or name not in rest:
            break  # after a gap everything goes by keyword
        positional.append(rest.pop(name))
    return tuple(positional), rest


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


__all__ = ["Inputs", "InputsError", "derive", "parse_sizes", "torch_dtype"]
