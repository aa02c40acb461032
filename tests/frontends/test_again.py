"""The short way of a call like the one before: it is taken when it may be, and only then."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

import attnc
from attnc.frontends.again import Again
from tests.patterns import causal


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each time that the short way was tried: did it serve the call?"""
    taken: list[bool] = []
    call = Again.call

    def spy(self: Again, compiled: attnc.CompiledAttention, args: tuple[Tensor, ...]) -> list[Tensor] | None:
        results = call(self, compiled, args)
        taken.append(results is not None)
        return results

    monkeypatch.setattr(Again, "call", spy)
    return taken


def inputs(length: int = 40, width: int = 16, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return list(torch.randn(3, 1, 2, length, width).to(dtype))


def check(fn: attnc.CompiledAttention, *args: Tensor) -> None:
    torch.testing.assert_close(fn(*args), fn.eager(*args), rtol=2e-2, atol=2e-2)


def warmed() -> attnc.CompiledAttention:
    fn = attnc.compile(causal, backend="cpu", fallback="error")
    check(fn, *inputs())
    return fn


def test_later_calls_are_short(short: list[bool]) -> None:
    fn = warmed()
    assert short == []
    check(fn, *inputs())
    check(fn, *inputs(length=61))
    check(fn, *(x.mT.contiguous().mT for x in inputs()))
    check(fn, *(nn.Parameter(x) for x in inputs()))
    with torch.no_grad():
        check(fn, *(nn.Parameter(x) for x in inputs()))
    assert short == [True] * 5
    assert len(fn._table) == 1


def test_gradients_are_the_same(short: list[bool]) -> None:
    fn = warmed()
    args = [x.requires_grad_() for x in inputs(37)]
    upstream = torch.randn_like(args[0])
    found = [torch.autograd.grad(f(*args), args, upstream) for f in (fn, fn.eager)]
    assert short == [True]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    one = [inputs()[0], *(x.requires_grad_() for x in inputs()[1:])]
    assert fn(*one).requires_grad
    with torch.inference_mode():
        assert not fn(*one).requires_grad
    assert short == [True] * 3


@pytest.mark.parametrize("change", ["dtype", "width", "few"])
def test_other_arguments_are_not_short(change: str, short: list[bool]) -> None:
    fn = warmed()
    args = inputs(dtype=torch.bfloat16) if change == "dtype" else inputs(width=40 if change == "width" else 16)
    if change == "few":
        with pytest.raises(TypeError):
            fn(*args[:2])
    else:
        check(fn, *args)
    assert short == [False]


def test_values_are_not_only_tensors(short: list[bool]) -> None:
    def scaled(q: Tensor, k: Tensor, v: Tensor, scale: float = 1.0) -> Tensor:
        return torch.softmax(q @ k.mT * scale, -1) @ v

    fn = attnc.compile(scaled, backend="cpu", fallback="error")
    for n in range(3):
        args = inputs()
        torch.testing.assert_close(fn(*args, float(n)), scaled(*args, float(n)), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fn(*args, scale=float(n)), scaled(*args, float(n)), rtol=1e-4, atol=1e-4)
    assert short == []


def test_what_is_read_from_outside_is_watched(short: list[bool]) -> None:
    outside = {"scale": 1.0, "bias": torch.zeros(40, 40)}

    def biased(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT * outside["scale"] + outside["bias"], -1) @ v

    fn = attnc.compile(biased, backend="cpu", fallback="error")
    for n in range(8):
        outside.update(scale=1.0 + n // 4, bias=torch.randn(40, 40).requires_grad_(n % 2 == 1))
        check(fn, *inputs())
        assert fn(*inputs()).requires_grad == (n % 2 == 1)
    assert short.count(False) == 1


def test_autocast_and_default_dtype_are_seen(short: list[bool]) -> None:
    fn = warmed()
    args = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        assert fn(*args).dtype == torch.bfloat16
    assert fn(*args).dtype == torch.float32
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        check(fn, *args)
    finally:
        torch.set_default_dtype(before)
    assert short == [False, True, False]


def test_transforms_are_seen(short: list[bool]) -> None:
    fn = warmed()
    args = inputs()
    leaked: list[Tensor] = []

    def keep(q: Tensor) -> Tensor:
        leaked.append(q)
        return q.sum()

    torch.func.grad(keep)(args[0])
    check(fn, leaked[0].requires_grad_(), *args[1:])
    batched = torch.func.vmap(fn)(*(x[None] for x in args))
    torch.testing.assert_close(batched[0], causal(*args), rtol=1e-4, atol=1e-4)


def test_log_sums_nobody_reads_share_memory_but_not_between_threads() -> None:
    fn = warmed()
    results: dict[int, bool] = {}

    def work(n: int) -> None:
        args = inputs(16 + n)
        expected = causal(*args)
        results[n] = all(torch.allclose(fn(*args), expected, rtol=1e-4, atol=1e-4) for _ in range(50))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == dict.fromkeys(range(4), True)
