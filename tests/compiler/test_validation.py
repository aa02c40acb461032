"""What :func:`attnc.validate` calls right and wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import attnc
from attnc.compiler import oracle
from attnc.compiler.validation import ValidationError, validate

INF = float("inf")


class Pretend:
    """A compiled function that runs ``run``."""

    def __init__(self, eager: Callable[..., Any], run: Callable[..., Any] | None = None):
        self.eager, self.run = eager, run or eager

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


def strictly_causal(q, k, v):
    """The first row sees nothing."""
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(j >= i, -INF).softmax(-1) @ v


def with_zero_rows(q, k, v):
    """The same, as a compiled function gives it."""
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    live = j < i
    p = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~live, -1e4).softmax(-1)
    return (p * live) @ v


def inputs(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 20, 8, generator=generator).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_right(dtype: torch.dtype) -> None:
    report = validate(Pretend(strictly_causal, with_zero_rows), *inputs(dtype))
    assert report.ok, report
    assert [e.name for e in report.entries] == ["output", "grad q", "grad k", "grad v"]
    assert report.fused
    assert not report.notes


def test_nan_where_no_key_is_live_is_wrong() -> None:
    report = validate(Pretend(strictly_causal), *inputs(), backward=False)
    assert not report.ok
    assert report.entries[0].error == INF
    assert "WRONG" in str(report)


@pytest.mark.parametrize("factor, ok", [(1 + 1e-7, True), (1 + 1e-4, False)])
def test_small_errors(factor: float, ok: bool) -> None:
    def dense(q, k, v):
        return (q @ k.mT).softmax(-1) @ v

    report = validate(Pretend(dense, lambda *a: dense(*a) * factor), *inputs(), backward=False)
    assert report.ok is ok, report


def test_the_limit_is_twice_eager_and_four_ulp() -> None:
    x = torch.tensor([3.0, -1.5])
    report = validate(Pretend(lambda x: x * 1), x)
    assert report.entries[0].limit == 4 * 2.0**-22  # numbers near 3 are 2 ** -22 apart


def test_the_oracle_is_double_throughout() -> None:
    table = torch.rand(8)  # captured, float32
    seen = []

    def f(x):
        y = x.float() * table + torch.linspace(0, 1, 8)
        seen.append(y.dtype)
        return y.to(x.dtype)

    assert validate(Pretend(f), torch.rand(8, dtype=torch.bfloat16), backward=False).ok
    assert seen == [torch.float32, torch.float64, torch.float32]
    assert torch.get_default_dtype() == torch.float32


def test_a_mask_spelled_out_by_hand() -> None:
    def f(q, k, v):
        i = torch.arange(q.shape[-2])
        scores = (q @ k.mT).masked_fill(i[None, :] >= i[:, None], -INF)
        p = (scores - scores.amax(-1, keepdim=True)).exp()
        return p / p.sum(-1, keepdim=True) @ v

    report = validate(Pretend(f, lambda *a: f(*a).nan_to_num(0.0)), *inputs())
    assert report.ok, report
    assert "taken as 0" in report.entries[0].note
    assert "not judged" in report.entries[-1].note


def test_integer_arguments_and_several_outputs() -> None:
    def f(x, table, *, scale):
        return {"scaled": x[table] * scale, "table": table + 1}

    args = torch.rand(6), torch.tensor([3, 1])
    report = validate(Pretend(f), *args, scale=torch.tensor(2.0))
    assert [e.name for e in report.entries] == ["output['scaled']", "output['table']", "grad x", "grad scale"]
    assert report.ok
    wrong = validate(
        Pretend(f, lambda x, table, *, scale: f(x, table + 1, scale=scale)), *args, scale=torch.tensor(2.0)
    )
    assert not wrong.entries[1].ok


def test_strides_reach_the_compiled_function() -> None:
    seen = []

    def f(x):
        seen.append(x.stride())
        return x * 1

    validate(Pretend(f), torch.rand(4, 6).mT, backward=False)
    assert seen[-1] == (1, 6)


def test_shapes_and_dtypes_count() -> None:
    x = torch.rand(3)
    assert not validate(Pretend(lambda x: x * 1, lambda x: x[:2] * 1), x, backward=False).ok
    assert not validate(Pretend(lambda x: x * 1, lambda x: x.double()), x, backward=False).ok


def test_no_tensor() -> None:
    with pytest.raises(ValidationError, match="none of the arguments"):
        validate(Pretend(lambda n: n), 3)


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "available_memory", lambda device: 2.0**30)
    long = torch.zeros(()).expand(1, 8, 1 << 20, 64)
    with pytest.raises(oracle.EagerTooLargeError, match=r"\(1, 8, 1048576, 1048576\).*slices are enough"):
        validate(Pretend(strictly_causal), long, long, long)


# ---- finite differences ----------------------------------------------------------------------------------


class Doubled(torch.autograd.Function):
    """The identity with the gradient of something else."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 2 * gradient


def dense(q, k, v):
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def sized(*shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("shape", [(1, 2, 7, 3), (2, 60, 8)])
def test_gradcheck_finds_a_wrong_gradient(shape: tuple[int, ...]) -> None:
    report = validate(
        Pretend(dense, lambda q, k, v: dense(q, Doubled.apply(k), v)), *sized(*shape), backward=False, gradcheck=True
    )
    assert [(g.name, g.ok) for g in report.gradcheck] == [("q", True), ("k", False), ("v", True)]
    assert [g.deviation < 1e-6 for g in report.gradcheck] == [True, False, True]
    assert not report.ok
    assert "gradcheck (float64, fused)" in str(report)


def test_gradcheck_of_kernels() -> None:
    compiled = attnc.compile(strictly_causal, backend="cpu", fallback="error")
    report = validate(compiled, *sized(1, 5, 2), gradcheck=True)
    assert report.ok, report
    assert report.fused
    assert {g.method for g in report.gradcheck} == {"every entry"}


def test_what_ran_eagerly_is_said() -> None:
    def run(*args: torch.Tensor) -> torch.Tensor:
        warnings.warn(
            "the gradient of dense is computed by eager PyTorch: why not", attnc.FallbackWarning, stacklevel=1
        )
        return dense(*args)

    report = validate(Pretend(dense, run), *sized(1, 3, 2), gradcheck=True)
    assert report.ok
    assert not report.fused
    text = str(report)
    assert "NOT fused" in text
    assert text.count("note: the gradient of dense is computed by eager PyTorch: why not") == 1


def test_a_function_is_looked_at_anew() -> None:
    """What it stays eager for was told at its first call."""

    def hidden(q, k, v):
        return (q @ k.mT).exp() @ v

    compiled = attnc.compile(hidden, backend="reference", fallback="silent")
    args = sized(1, 2, 7, 3)
    compiled(*args)
    assert not validate(compiled, *args, backward=False).fused


@pytest.mark.parametrize(
    "func, args, shape",
    [
        (torch.matmul, [(2, 3, 4), (4, 5)], (2, 3, 5)),
        (torch.einsum, ["bid,bjd->bij", (2, 3, 4), (2, 5, 4)], (2, 3, 5)),
        (torch.nn.functional.scaled_dot_product_attention, [(2, 3, 4), (2, 5, 4), (2, 5, 4)], (2, 3, 5)),
        (torch.add, [(3, 1), (1, 4)], (3, 4)),
        (torch.matmul, [(2, 3), (4, 5)], (2, 5)),
    ],
)
def test_shapes_ahead(func: Callable[..., Any], args: list[Any], shape: tuple[int, ...]) -> None:
    tensors = [torch.zeros(a) if isinstance(a, tuple) else a for a in args]
    assert oracle.result_shape(func, tuple(tensors), {}) == shape
    assert math.prod(shape)
