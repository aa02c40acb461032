"""Each mistake gives one class and one line that says where, what was found and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import attnc


def _qkv(*shape: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.ones(shape or (1, 2, 12, 8), dtype=dtype) for _ in range(3)]


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def _branch(q: Any, k: Any, v: Any) -> Any:
    return q if (q > 0).any() else k


def _item(q: Any, k: Any, v: Any) -> Any:
    return q * k.sum().item()


def _write(q: Any, k: Any, v: Any) -> Any:
    q += 1
    return q


def _write_view(q: Any, k: Any, v: Any) -> Any:
    q[0].zero_()
    return q


def _stale(q: Any, k: Any, v: Any) -> Any:
    x = q + 1
    flat = x.transpose(1, 2).reshape(-1)
    flat[0] = 3.0
    return x + 1


def _overlapping(q: Any, k: Any, v: Any) -> Any:
    x = q + 1
    x.unfold(2, 2, 1).zero_()
    return x


def _nonzero(q: Any, k: Any, v: Any) -> Any:
    return q[q > 0]


def _device(q: Any, k: Any, v: Any) -> Any:
    return q + torch.zeros(8, device="meta")


def _unknown(q: Any, k: Any, v: Any) -> Any:
    return q + torch.from_numpy(__import__("numpy").ones(8, "float32"))


def _returns(q: Any, k: Any, v: Any) -> Any:
    return object()


def _strides(q: Any, k: Any, v: Any) -> Any:
    return q.as_strided((2, 2), (1, 1))


CASES: list[tuple[Callable[..., Any], list[torch.Tensor], type[Exception], str]] = [
    (_attention, _qkv(12), attnc.RankError, r"test_errors.py:\d+: .*mT.*dimension -2 does not exist; the tensor has 1"),
    (
        _attention,
        [*_qkv(1, 2, 12, 8)[:1], *_qkv(1, 2, 12, 4)[:2]],
        attnc.ShapeError,
        r"sizes D = 8 and D_k = 4 must be equal",
    ),
    (
        _attention,
        [*_qkv(1, 2, 12, 8)[:1], *_qkv(1, 3, 12, 8)[:2]],
        attnc.ShapeError,
        r"sizes H = 2 and H_k = 3 do not broadcast",
    ),
    (_attention, _qkv(1, 2, 12, 8, dtype=torch.int64), attnc.DtypeError, r"test_errors.py:\d+: .*int64"),
    (
        _attention,
        [torch.ones(1, 2, 3, 4), *[torch.ones(1, 2, 3, 4, device="meta")] * 2],
        attnc.DeviceError,
        r"k is on meta, but q is on cpu",
    ),
    (
        _attention,
        [torch.ones(1, 2, 3, 4), *[torch.ones(1, 2, 3, 4).half()] * 2],
        attnc.DtypeError,
        r"expected scalar type Float but found Half",
    ),
    (_branch, _qkv(), attnc.DataDependentError, r"a Python branch on a tensor's values.*use torch.where"),
    (_item, _qkv(), attnc.DataDependentError, r"item.*pass a Python number"),
    (_write, _qkv(), attnc.MutationError, r"in-place write to q, which the caller would see.*q.clone"),
    (_write_view, _qkv(), attnc.MutationError, r"in-place write to q"),
    (_stale, _qkv(), attnc.MutationError, r"view of a tensor that was changed.*may have made it a copy"),
    (_overlapping, _qkv(), attnc.MutationError, r"in-place write to a view made by unfold"),
    (_nonzero, _qkv(), attnc.DataDependentError, r"boolean mask.*masked_fill"),
    (_device, _qkv(), attnc.DeviceError, r"makes a tensor on meta.*device=q.device"),
    (_unknown, _qkv(), attnc.AttncError, r"from_numpy"),
    (_returns, _qkv(), attnc.UnsupportedOpError, r"returns a object"),
    (_strides, _qkv(), attnc.UnsupportedOpError, r"as_strided depends on how a tensor lies in memory"),
]


@pytest.mark.parametrize(
    ("fn", "inputs", "kind", "message"),
    CASES,
    ids=[f"{c[0].__name__}-{c[2].__name__}-{n}" for n, c in enumerate(CASES)],
)
def test_one_class_and_one_line(
    fn: Callable[..., Any], inputs: list[torch.Tensor], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as found:
        attnc.compile(fn, backend="reference")(*inputs)
    assert isinstance(found.value, attnc.AttncError)
    assert "\n" not in str(found.value)
    assert found.value.__cause__ is None
    frames = [frame.path.name for frame in found.traceback]
    assert frames[-1] == "compiled.py", frames  # no frame of the tracer


def test_not_a_function() -> None:
    for wrong in (3, "f", torch.nn.Linear(2, 2), torch.nn.Linear):
        with pytest.raises(attnc.NotAFunctionError, match="takes a function"):
            attnc.compile(wrong)  # type: ignore[call-overload]


def test_unknown_options() -> None:
    with pytest.raises(attnc.UsageError, match="did you mean 'triton'"):
        attnc.compile(_attention, backend="tritn")
    with pytest.raises(attnc.UsageError, match="did you mean 'silent'"):
        attnc.compile(_attention, fallback="silnt")


def test_no_tensor() -> None:
    with pytest.raises(attnc.ArgumentError, match="at least one tensor"):
        attnc.compile(lambda n: n)(3)


def test_leaked_tracer() -> None:
    kept: list[torch.Tensor] = []

    def leaky(q: torch.Tensor) -> torch.Tensor:
        kept.append(q)
        return q + 1

    attnc.compile(leaky).trace(torch.ones(2))
    with pytest.raises(attnc.LeakedTracerError, match="earlier trace"):
        kept[0] + 1
