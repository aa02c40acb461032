"""The numbers contract: float64 eager is the oracle, and the limit is derived, never tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


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
