"""``attnc.validate``: is the compiled function as exact as the eager one?

The oracle is the user's function run eagerly in float64.  For every output tensor, with the max norm::

    error(x) = max |x - oracle|            over all elements
    limit    = 2 * error(eager) + 4 * ulp  where ulp = eps(dtype) * 2 ** floor(log2(scale))
    scale    = max |oracle|                of that output; for a gradient, of the largest gradient

and the compiled result is right when ``error(compiled) <= limit``; ``eager`` is the user's function in the
dtype of the inputs.  The limit follows from the data; nothing in it was tuned.

Gradients share a scale because they cancel: a query with one key has gradient zero, as the difference of two equal
sums of the size of the values' gradient, which no backward that starts from the saved output rounds alike.

A gradient of few elements, such as a slope for each head, is a long sum, whose error for one cotangent may be next to
nothing by luck: there ``error(eager)`` is the largest over several cotangents.

In float64 the eager run is the oracle, so its error cannot be measured there.  It is measured in float32 and
scaled by the ratio of the two roundings; the oracle errs as much, so the limit is ``3 * error(eager) + 4 * ulp``.

A query without a live key is ``0`` by definition, while PyTorch's softmax gives NaN, which also spoils the
gradients of every key it met.  So both eager runs use a softmax that gives 0 on rows of -inf; it is the same
function elsewhere.  What is still NaN in the oracle although no input is (a softmax spelled out by hand) is
compared with 0 in outputs; a gradient that holds NaN cannot be judged, and its entry says so.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..ir.errors import AttncError
from .gradcheck import GradientCheck, check_gradients
from .oracle import EagerMode

ULPS = 4
FEW = 1024  # elements of a gradient whose error is measured for several cotangents
DRAWS = 6


class ValidationError(AttncError):
    """A function that cannot be validated as called."""


@dataclass(frozen=True)
class Entry:
    """One compared tensor; ``limit`` is what ``error`` may be."""

    name: str
    error: float
    eager_error: float
    limit: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.limit


@dataclass(frozen=True)
class ValidationReport:
    """What :func:`validate` found; ``str()`` is a table."""

    name: str
    dtype: str
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gradcheck: list[GradientCheck] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)  # what ran eager in place of a kernel, and why

    @property
    def ok(self) -> bool:
        return all(e.ok for e in self.entries) and all(g.ok for g in self.gradcheck)

    @property
    def fused(self) -> bool:
        """Did everything compared run in kernels?"""
        return not self.fallbacks

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("", "error", "eager", "limit", "")]
        for e in self.entries:
            numbers = (f"{x:.3g}" for x in (e.error, e.eager_error, e.limit))
            rows.append((e.name, *numbers, ("ok" if e.ok else "WRONG") + (f"  {e.note}" if e.note else "")))
        widths = [max(len(r[c]) for r in rows) for c in range(5)]
        lines = [f"{self.name} ({self.dtype}): " + ("ok" if self.ok else "WRONG")]
        for row in rows:
            cells = (cell.rjust(w) for cell, w in zip(row[1:4], widths[1:4], strict=True))
            lines.append(f"  {row[0].ljust(widths[0])}  {'  '.join(cells)}  {row[4]}".rstrip())
        if self.gradcheck:
            lines.append(f"gradcheck (float64, {'fused' if self.fused else 'NOT fused'})")
            lines += [f"  {check}" for check in self.gradcheck]
        return "\n".join(lines + [f"  note: {n}" for n in [*self.notes, *self.fallbacks]])


def validate(
    fn: Callable[..., Any], *args: Any, backward: bool = True, gradcheck: bool = False, **kwargs: Any
) -> ValidationReport:
    """Compare ``fn`` compiled with ``fn`` as written, outputs and gradients, and report every error.

    ``fn`` may be compiled or plain.  Gradients are those of the floating-point tensors among the arguments,
    for one random cotangent.  With ``gradcheck`` they are also compared with finite differences in float64, as
    ``torch.autograd.gradcheck`` does: in every entry if the inputs are small.  Raises
    :class:`~.oracle.EagerTooLargeError` rather than fill the memory with eager scores.
    """
    compiled, eager = _pair(fn)
    name = getattr(eager, "__name__", type(eager).__name__)
    dtypes = {t.dtype for t in _tensors((args, kwargs)) if t.is_floating_point()}
    if not dtypes:
        raise ValidationError(f"validate({name}): none of the arguments is a floating-point tensor")
    # The narrower run first: it needs the least memory, so what does not fit is refused before anything is copied.
    plain = _run(eager, args, kwargs, backward, double=False)
    oracle = _run(eager, args, kwargs, backward, double=True)
    single: _Run | None = None
    if torch.float64 in dtypes:
        single_args, single_kwargs = pytree.tree_map(_single, (args, kwargs))
        single = _run(eager, single_args, single_kwargs, backward, double=False)
    singles = single.tensors if single else [None] * len(plain.tensors)
    with _fallbacks() as fallbacks:
        result, notes = _run_compiled(compiled, args, kwargs, backward)
        checks = _gradcheck(compiled, args, kwargs, name) if gradcheck else []
    if result.names != oracle.names[: len(result.names)]:
        raise ValidationError(f"validate({name}): compiled gives {result.names}, eager {oracle.names}")
    clean = all(t.isfinite().all() for t in _tensors((args, kwargs)) if t.is_floating_point())
    count = len(result.names)
    shared = max((scale(t) for n, t in zip(oracle.names, oracle.tensors, strict=True) if _is_gradient(n)), default=0.0)
    own = _errors_of_draws(single or plain, oracle)
    entries = [
        compare(
            *(label, value, narrow, wide, one),
            clean=clean,
            shared=shared if _is_gradient(label) else None,
            own=own.get(label, 0.0),
        )
        for label, value, narrow, wide, one in zip(
            result.names, result.tensors, plain.tensors[:count], oracle.tensors[:count], singles[:count], strict=True
        )
    ]
    names = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
    return ValidationReport(name, names, entries, notes, checks, list(dict.fromkeys(fallbacks)))


def _pair(fn: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The compiled and the eager form of ``fn``."""
    # The decorator is a frontend's, and the compiler may not import those when it is itself imported.
    package = importlib.import_module((__package__ or "").rpartition(".")[0])
    if not callable(eager := getattr(fn, "eager", None)):
        return package.compile(fn), fn
    if isinstance(fn, package.CompiledAttention) and fn.fallback != "error":
        # anew, because what stays eager is told once
        return package.compile(eager, backend=fn.backend, fallback="warn", options=fn.options), eager
    return fn, eager


@contextmanager
def _fallbacks() -> Iterator[list[str]]:
    """Collects what is said to stay eager; other warnings pass."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        yield found
    for w in raised:
        if type(w.message).__name__ == "FallbackWarning":
            found.append(str(w.message))
        else:
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)


def _gradcheck(
    compiled: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str
) -> list[GradientCheck]:
    """The compiled function's gradients against finite differences."""
    paths, spec = pytree.tree_flatten_with_path((args, kwargs))
    leaves = [_leaf(value, True, True) for _, value in paths]
    at = [n for n, x in enumerate(leaves) if _is_tensor(x) and x.requires_grad]

    def floats(*inputs: torch.Tensor) -> list[torch.Tensor]:
        filled = dict(zip(at, inputs, strict=True))
        call_args, call_kwargs = pytree.tree_unflatten([filled.get(n, x) for n, x in enumerate(leaves)], spec)
        return [t for t in _tensors(compiled(*call_args, **call_kwargs)) if t.is_floating_point()]

    try:
        return check_gradients(floats, [leaves[n] for n in at], [_argument(paths[n][0], compiled) for n in at])
    except RuntimeError as error:
        raise ValidationError(f"validate({name}): gradcheck cannot run the function in float64: {error}") from error


@dataclass
class _Run:
    names: list[str]
    tensors: list[torch.Tensor]
    gradients: bool
    draws: dict[str, list[torch.Tensor]] = field(default_factory=dict)  # gradients of few elements, more cotangents


def _errors_of_draws(eager: _Run, oracle: _Run) -> dict[str, float]:
    """For each gradient of few elements the largest error over the draws that have one."""
    return {
        name: max(
            (_distance(x, o) for x, o in zip(eager.draws[name], found, strict=True) if not o.isnan().any()), default=0.0
        )
        for name, found in oracle.draws.items()
    }


def _run(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    backward: bool,
    *,
    mode: bool = True,
    double: bool = False,
) -> _Run:
    """Outputs, then gradients, of one way to run the function."""
    paths, spec = pytree.tree_flatten_with_path((args, kwargs))
    # Gradients per argument: a tensor passed twice is made two leaves here, in all three runs alike.
    leaves = [_leaf(value, backward, double) for _, value in paths]
    call_args, call_kwargs = pytree.tree_unflatten(leaves, spec)
    with EagerMode(double) if mode else _nothing(), torch.enable_grad() if backward else torch.no_grad():
        result = fn(*call_args, **call_kwargs)
        outputs = [(_label("output", p), t) for p, t in pytree.tree_flatten_with_path(result)[0] if _is_tensor(t)]
        names, tensors = [n for n, _ in outputs], [t for _, t in outputs]
        roots = [t for t in tensors if t.requires_grad]
        few = [x for x in leaves if _is_tensor(x) and x.requires_grad and x.numel() <= FEW] if mode and roots else []
        if roots:
            first = [cotangent(t, n) for n, t in enumerate(roots)]
            torch.autograd.backward(roots, first, retain_graph=bool(few))
        drawn = [
            torch.autograd.grad(
                *(roots, few, [cotangent(t, k * len(roots) + n) for n, t in enumerate(roots)]),
                retain_graph=True,
                materialize_grads=True,
            )
            for k in range(1, DRAWS if few else 0)
        ]
    draws: dict[str, list[torch.Tensor]] = {}
    if roots:
        for (path, _), leaf in zip(paths, leaves, strict=True):
            if _is_tensor(leaf) and leaf.requires_grad:
                names.append(f"grad {_argument(path, fn)}")
                tensors.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
                at = next((n for n, x in enumerate(few) if x is leaf), None)
                draws |= {} if at is None else {names[-1]: [found[at] for found in drawn]}
    return _Run(names, [t.detach() for t in tensors], bool(roots), draws)


def _run_compiled(
    compiled: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], backward: bool
) -> tuple[_Run, list[str]]:
    """The compiled run, and what the reader should know about it."""
    try:
        return _run(compiled, args, kwargs, backward, mode=False), []
    except AttncError as error:
        if not backward or type(error).__name__ != "GradientNotAvailable":
            raise
        result = _run(compiled, args, kwargs, False, mode=False)
        return result, ["gradients are not compared: with fallback='error' the function gives none"]


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _leaf(value: Any, backward: bool, double: bool) -> Any:
    if not _is_tensor(value) or not value.is_floating_point():
        return value
    value = value.detach()  # keeps the strides, which the compiled function must serve
    return (value.double() if double else value).requires_grad_(backward)


def _single(value: Any) -> Any:
    return value.float() if _is_tensor(value) and value.dtype == torch.float64 else value


def cotangent(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    """The gradient that an output is given, of its shape and type."""
    # Values that every dtype holds exactly, so that all runs differentiate the same function.
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-8, 9, tensor.shape, generator=generator).to(torch.float64) / 8
    return values.to(tensor.device, tensor.dtype)


def compare(
    name: str,
    value: torch.Tensor,
    eager: torch.Tensor,
    oracle: torch.Tensor,
    single: torch.Tensor | None,
    *,
    clean: bool,
    shared: float | None,  # the scale of all gradients, if this is one
    own: float = 0.0,  # eager's error for other cotangents
) -> Entry:
    """Judge one tensor by the limits above; ``single`` is eager's in float32 where the dtype is float64."""
    if value.shape != oracle.shape:
        return Entry(name, math.inf, 0.0, 0.0, f"shape {tuple(value.shape)}, eager {tuple(oracle.shape)}")
    if value.dtype != eager.dtype:
        return Entry(name, math.inf, 0.0, 0.0, f"dtype {value.dtype}, eager {eager.dtype}")
    if not value.is_floating_point():
        differing = int((value != eager).sum())
        return Entry(name, float(differing), 0.0, 0.0, "count of differing elements")
    oracle, note = oracle.double(), ""
    if clean and (spoiled := oracle.isnan()).any():
        if shared is not None:
            return Entry(name, 0.0, 0.0, 0.0, "not judged: eager's gradient is NaN")
        oracle, eager = oracle.masked_fill(spoiled, 0.0), eager.masked_fill(spoiled, 0.0)
        note = "NaN of eager, where no key is live, taken as 0"
    error, eager_error = _distance(value, oracle), _distance(eager, oracle)
    factor = 2
    if single is not None and eager.dtype == torch.float64:
        ratio = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
        eager_error, own, factor = _distance(single.nan_to_num(0.0), oracle) * ratio, own * ratio, 3
    limit = factor * max(eager_error, own) + ULPS * _ulp(max(scale(oracle), shared or 0.0), eager.dtype)
    return Entry(name, error, eager_error, limit, note)


def _distance(value: torch.Tensor, oracle: torch.Tensor) -> float:
    """Max norm of the difference; equal infinities and NaNs are equal, other non-finite ones infinitely far."""
    value = value.double()
    same = (value == oracle) | (value.isnan() & oracle.isnan())
    gap = (value - oracle).abs().masked_fill(same, 0.0)
    return float(gap.nan_to_num(nan=math.inf, posinf=math.inf).max()) if gap.numel() else 0.0


def scale(oracle: torch.Tensor) -> float:
    """The largest finite magnitude."""
    finite = oracle[oracle.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0


def _ulp(scale: float, dtype: torch.dtype) -> float:
    """The distance of neighbouring numbers of ``dtype`` at a scale."""
    info = torch.finfo(dtype)
    return info.eps * 2.0 ** math.floor(math.log2(max(scale, info.tiny)))


def _is_gradient(label: str) -> bool:
    return label.startswith("grad ")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [t for t in pytree.tree_leaves(tree) if _is_tensor(t)]


def _label(root: str, path: tuple[Any, ...]) -> str:
    return root + pytree.keystr(path)


def _argument(path: tuple[Any, ...], fn: Callable[..., Any]) -> str:
    """The parameter that a leaf of ``(args, kwargs)`` belongs to."""
    import inspect

    where, first, *rest = path
    name = getattr(first, "key", None) or str(getattr(first, "idx", ""))
    if getattr(where, "idx", 0) == 0:
        try:
            parameters = list(inspect.signature(getattr(fn, "eager", fn)).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        if int(name) < len(parameters) and parameters[int(name)].kind is not inspect.Parameter.VAR_POSITIONAL:
            name = parameters[int(name)].name
        else:
            name = f"argument {name}"
    return name + pytree.keystr(tuple(rest))
