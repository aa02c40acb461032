"""The numbers contract: float64 eager is the oracle, and the limit is derived, never tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import attnc
from attnc.compiler.oracle import EagerMode

DRAWS = 4


def _to(dtype: torch.dtype, x: Any) -> Any:
    return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def error_and_limit(
    eager: Callable[..., torch.Tensor], actual: torch.Tensor, inputs: Sequence[Any]
) -> tuple[float, float]:
    """Largest error of ``actual``, and twice eager's own plus 4 ulp at the output's scale.

    Rows without a live key are NaN in eager and must be 0 in ``actual``.  In float64 eager is the oracle: its
    error is that of float32, scaled by the ratio of the roundings, and counts once more for the oracle's own.
    """
    oracle = eager(*(_to(torch.float64, x) for x in inputs)).nan_to_num(0.0)
    if not oracle.numel():
        return 0.0, 0.0
    eps = torch.finfo(actual.dtype).eps
    if actual.dtype == torch.float64:
        same = eager(*(_to(torch.float32, x) for x in inputs))
        factor = 3 * eps / torch.finfo(torch.float32).eps
    else:
        same, factor = eager(*inputs), 2.0
    scale = max(oracle.abs().max().item(), torch.finfo(actual.dtype).tiny)
    limit = factor * (same.double().nan_to_num(0.0) - oracle).abs().max().item() + 4 * eps * scale
    return (actual.double() - oracle).abs().max().item(), limit


def assert_matches(eager: Callable[..., torch.Tensor], actual: torch.Tensor, inputs: Sequence[Any]) -> None:
    """Check shape, dtype and error of ``actual`` against ``eager``."""
    expected = eager(*inputs)
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    error, limit = error_and_limit(eager, actual, inputs)
    assert error <= limit, f"error {error:.3e} is above the limit {limit:.3e}"


def cotangents(output: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Random gradients of ``output``, of values that every dtype holds exactly."""
    generator = torch.Generator().manual_seed(1)
    draws = torch.randint(-8, 9, (count, *output.shape), generator=generator, dtype=torch.float64) / 8
    return list(draws.to(output.dtype))


def gradients(
    fn: Callable[..., torch.Tensor],
    inputs: Sequence[Any],
    draws: int = 1,
    wanted: Sequence[int] | None = None,
    absolute: bool = False,
) -> list[list[torch.Tensor]]:
    """The gradients of the ``wanted`` inputs (all that are floating-point), for some cotangents or their moduli."""
    if wanted is None:
        wanted = [n for n, x in enumerate(inputs) if x.is_floating_point()]
    leaves = [x.detach().requires_grad_(n in wanted) for n, x in enumerate(inputs)]
    output = fn(*leaves)
    asked = [leaves[n] for n in wanted]
    given = [c.abs() if absolute else c for c in cotangents(output, draws)]
    # PyTorch says None where an empty dimension cut the graph
    return [
        list(torch.autograd.grad(output, asked, c, retain_graph=True, allow_unused=True, materialize_grads=True))
        for c in given
    ]


class _WithoutNormaliser(TorchFunctionMode):
    """Softmaxes, in any of the table's spellings, pass no gradient through their normaliser."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self.attention(*args, **kwargs)
        if func in (torch.softmax, torch.Tensor.softmax, F.softmax):
            return self.softmax(args[0])
        if func in (torch.log_softmax, torch.Tensor.log_softmax, F.log_softmax):
            return self.log_softmax(args[0])
        result = func(*args, **kwargs)
        if func in (torch.Tensor.sum, torch.Tensor.amax, torch.Tensor.logsumexp) and kwargs.get("keepdim"):
            return result.detach()
        if func is torch.Tensor.max and kwargs.get("keepdim"):
            return torch.return_types.max([x.detach() for x in result])
        return result

    def log_softmax(self, scores):
        total = scores.logsumexp(-1, keepdim=True).detach()
        return scores - total.masked_fill(total == -torch.inf, 0)

    def softmax(self, scores):
        return self.log_softmax(scores).exp()

    def attention(self, q, k, v, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
        if enable_gqa:
            k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
        scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril() if is_causal else attn_mask
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return self.softmax(scores) @ v


def gradient_limits(
    eager: Callable[..., torch.Tensor], inputs: Sequence[Any], wanted: Sequence[int] | None = None
) -> list[tuple[torch.Tensor, float]]:
    """For each wanted input its gradient in float64 for the first cotangent, and the largest error allowed.

    The limit is that of outputs, but eager's own error is the largest of several draws of the cotangent, and so is
    the scale: a gradient of few elements (a temperature, a slope for each head) is a long sum, whose error in a
    single draw may be zero by luck and whose value may cancel.  The scale is at least that of the gradient without
    the normaliser's part, of the moduli of values and cotangents: a query with one key has gradient zero, but as the
    difference of two equal sums, which no backward from the saved output rounds alike.  A gradient that is zero all the
    same, such as that of the weight between two attentions with one key, is such a difference of products of cotangents
    and outputs.  Rows without a live key have gradient zero.
    """

    def run(dtype: torch.dtype | None) -> list[list[torch.Tensor]]:
        cast = [x if dtype is None else _to(dtype, x) for x in inputs]
        with EagerMode(double=dtype == torch.float64):
            return gradients(eager, cast, DRAWS, wanted)

    double = any(x.dtype == torch.float64 for x in inputs)
    oracles, sames = run(torch.float64), run(torch.float32 if double else None)
    doubles = [_to(torch.float64, x) for x in inputs]
    doubles[2] = doubles[2].abs()  # the values
    with EagerMode(double=True), _WithoutNormaliser():
        parts = gradients(eager, doubles, DRAWS, wanted, absolute=True)

    def products() -> float:
        with EagerMode(double=True), _WithoutNormaliser():
            output = eager(*doubles).detach().nan_to_num()
        return max((_largest((c * output).abs().sum(-1)) for c in cotangents(output, DRAWS)), default=0.0)

    found = []
    for oracle, same, part in zip(*(zip(*x, strict=True) for x in (oracles, sames, parts)), strict=True):
        eps, factor = torch.finfo(same[0].dtype).eps, 2.0
        if double:
            eps, factor = torch.finfo(torch.float64).eps, 3 * torch.finfo(torch.float64).eps / eps
        assert all(x.isfinite().all() for x in oracle), "the oracle's gradient is not finite"
        own = max(_largest(s.double() - o) for s, o in zip(same, oracle, strict=True))
        scale = max(map(_largest, (*oracle, *part))) or products()
        found.append((oracle[0], factor * own + 4 * eps * scale))
    return found


def _largest(x: torch.Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


def assert_gradients_match(
    eager: Callable[..., torch.Tensor],
    actual: Sequence[torch.Tensor],
    inputs: Sequence[Any],
    wanted: Sequence[int] | None = None,
    where: str = "",
) -> None:
    """Check shape, dtype and error of the gradients of the wanted inputs for the first cotangent."""
    numbers = wanted if wanted is not None else [n for n, x in enumerate(inputs) if x.is_floating_point()]
    limits = gradient_limits(eager, inputs, wanted)
    for number, found, (oracle, limit) in zip(numbers, actual, limits, strict=True):
        what = f"{where} gradient of input {number}".strip()
        assert found.shape == oracle.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(oracle.shape)}"
        assert found.dtype == inputs[number].dtype, f"{what}: dtype {found.dtype}"
        error = _largest(found.double() - oracle)
        assert error <= limit, f"{what}: error {error:.3e} is above the limit {limit:.3e}"


def assert_compiles(
    fn: Callable[..., torch.Tensor],
    args: Sequence[Any],
    backend: str = "cpu",
    fallback: str = "error",
    train: bool = True,
) -> Any:
    """Compile ``fn``, compare its output and (``train``) its gradients with float64 eager; the compiled function."""
    compiled = attnc.compile(fn, backend=backend, fallback=fallback)
    assert_matches(fn, compiled(*args), args)
    if train:
        (found,) = gradients(compiled, args)
        assert_gradients_match(fn, found, args)
    return compiled
