"""What must hold for every program: numbers, gradients, determinism, text that reads back."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import attnc
from attnc.compiler.errors import PassVerifyError
from attnc.compiler.oracle import EagerMode
from attnc.ir.text import parse_module, print_module

from ..numerics import error_and_limit, gradient_limits, gradients
from .deeper import deeper
from .programs import Program

BACKENDS = ("cpu", "triton", "reference")


class Unusable(Exception):
    """The program's own eager code refuses its inputs: nothing to compare with."""


class Refused(Exception):
    """attnc says that it cannot do this; counted, for a refusal is no wrong number."""


def load(source: str, folder: Path, name: str) -> ModuleType:
    """Import a program from a file of its own, so that messages can name its lines."""
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


def check(
    program: Program,
    folder: Path,
    backend: str,
    verify: bool,
    name: str = "program",
    twice: bool = True,
    deep: bool = False,
) -> list[str]:
    """Compile and compare with float64 eager, forward and backward; what stayed eager, and why.

    With ``twice`` every call is made again and must give the same bits, which an interpreter is slow at.  With ``deep``
    another process compiles it as well, and pairs are counted.
    """
    module = load(program.source(), folder, name)
    inputs = module.example_inputs()
    eager = module.attention
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of eager PyTorch
        try:
            error_and_limit(eager, eager(*inputs), inputs)
        except Exception as error:
            raise Unusable(str(error)) from error
    options = {"verify": "each"} if verify else None
    by_itself = getattr(module, "ours", None)
    compiled = (
        partial(by_itself, backend=backend) if by_itself else attnc.compile(eager, backend=backend, options=options)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _compare(compiled, eager, inputs, twice, merged=any("sigmoid(lse" in line for line in program.body))
        except PassVerifyError:
            raise
        except attnc.AttncError as error:
            raise Refused(f"{type(error).__name__}: {str(error).splitlines()[0][:160]}") from error
    reasons = [str(w.message) for w in caught if issubclass(w.category, attnc.FallbackWarning)]
    if by_itself is None:
        _texts(compiled.lower(*inputs), bool(reasons))
        if deep and not reasons:
            deeper(compiled.lower(*inputs), folder / f"{name}.py", backend)
    return reasons


def _texts(lowered: Any, eager: bool) -> None:
    assert eager or lowered.explain().fused, "not fused, and nothing says so"
    for stage in ("attn", "tile"):
        text = lowered.ir(stage)
        assert print_module(parse_module(text)).strip() == text.strip(), f"the {stage} text does not read back"


def _compare(
    compiled: Any, eager: Callable[..., torch.Tensor], inputs: tuple[Any, ...], twice: bool, merged: bool
) -> None:
    """``merged``: parts are weighed by what their log-sum-exps differ by, no number where neither has a key."""
    output = compiled(*inputs)
    expected = eager(*inputs)
    assert output.shape == expected.shape, f"shape {tuple(output.shape)}, expected {tuple(expected.shape)}"
    assert output.dtype == expected.dtype, f"dtype {output.dtype}, expected {expected.dtype}"
    undefined = output.isnan() & expected.isnan() & merged
    output = output.masked_fill(undefined, 0.0)
    assert output.isfinite().all(), "the output is not finite"
    error, limit = error_and_limit(_defined(eager, output), output, inputs)
    assert error <= limit, f"the error {error:.3e} is above the limit {limit:.3e}"
    if twice:
        assert torch.equal(compiled(*inputs).masked_fill(undefined, 0.0), output), "a second call gives other bits"
    if not undefined.any():  # or gradients are no numbers either
        _gradients(compiled, eager, inputs, twice)


def _defined(eager: Callable[..., torch.Tensor], output: torch.Tensor) -> Callable[..., torch.Tensor]:
    """``eager`` with 0 for rows without keys; where it gives no number all the same, what attnc gives is taken."""

    def run(*inputs: Any) -> torch.Tensor:
        with EagerMode(double=inputs[0].dtype == torch.float64):
            expected = eager(*inputs)
        return torch.where(expected.isfinite(), expected, output.to(expected.dtype))

    return run


def _gradients(compiled: Any, eager: Callable[..., torch.Tensor], inputs: tuple[Any, ...], twice: bool) -> None:
    try:
        limits = gradient_limits(eager, inputs)
    except AssertionError:  # eager's own gradient is not finite: there is no number to compare with
        limits = []
    except RuntimeError as error:
        if "modified by an inplace operation" in str(error):
            return  # eager has no gradient
        raise
    (first,) = gradients(compiled, inputs)
    assert all(x.isfinite().all() for x in first), "a gradient is not finite"
    if twice:
        (again,) = gradients(compiled, inputs)
        assert all(map(torch.equal, first, again)), "a second backward gives other bits"
    numbers = [n for n, x in enumerate(inputs) if x.is_floating_point()]
    for number, found, (oracle, limit) in zip(numbers, first, limits, strict=False):
        error = (found.double() - oracle).abs().max().item() if found.numel() else 0.0
        assert error <= limit, f"gradient of input {number}: the error {error:.3e} is above the limit {limit:.3e}"
