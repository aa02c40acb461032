"""Nothing stays eager quietly: not in the first process, not in the second, not while it keeps compiling."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings
from pathlib import Path

import pytest
import torch

import attnc
from attnc.compiler import driver
from attnc.frontends import table
from attnc.frontends.raising import emit

Tensor = torch.Tensor


def qkv(n: int = 12) -> list[Tensor]:
    torch.manual_seed(n)
    return [torch.randn(2, 3, n, 8) for _ in range(3)]


def sorted_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1).sort(-1).values @ v


MESSAGE = r"test_fallback.py:\d+: return .*sort.* in sorted_weights stay eager: .*they allocate .*10,368 bytes"


UNSUPPORTED = {
    "sorted weights": lambda q, k, v: (q @ k.mT).softmax(-1).sort(-1).values @ v,
    "sums of weights": lambda q, k, v: (q @ k.mT).softmax(-1).cumsum(-1) @ v,
    "the largest": lambda q, k, v: (
        (s := q @ k.mT).masked_fill(s < s.topk(3).values[..., -1:], -math.inf).softmax(-1) @ v
    ),
}


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_what_is_not_fused_says_so_and_gives_the_bits_of_eager(what: str) -> None:
    fn = UNSUPPORTED[what]
    torch.manual_seed(0)
    args = [torch.randn(1, 2, 33, 8) for _ in range(3)]
    with pytest.raises(attnc.FallbackError, match=r"test_fallback\.py:\d+"):
        attnc.compile(fn, backend="cpu", fallback="error")(*args)
    loud, silent = (attnc.compile(fn, backend="cpu", fallback=how) for how in ("warn", "silent"))
    with pytest.warns(attnc.FallbackWarning, match=r"test_fallback\.py:\d+.*\d bytes") as caught:
        first = loud(*args)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(loud(*args), first)  # and no second warning
        assert torch.equal(silent(*args), first)
    assert torch.equal(first, fn(*args))


def test_warning_names_line_reason_and_bytes() -> None:
    with pytest.warns(attnc.FallbackWarning, match=MESSAGE) as found:
        out = attnc.compile(sorted_weights, backend="reference")(*qkv())
    torch.testing.assert_close(out, sorted_weights(*qkv()))
    assert Path(found[0].filename).name == "test_fallback.py"


def test_error_refuses() -> None:
    compiled = attnc.compile(sorted_weights, backend="reference", fallback="error")
    for _ in range(2):
        with pytest.raises(attnc.FallbackError, match=MESSAGE):
            compiled(*qkv())


def test_a_small_softmax_is_as_loud() -> None:
    def few_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        at = torch.arange(q.shape[2])[:, None] * torch.arange(3) % q.shape[2]
        p = (q[:, :, :, None] * k[:, :, at]).sum(-1).softmax(-1)
        return (p[..., None] * v[:, :, at]).sum(-2)

    with pytest.raises(attnc.FallbackError, match=r"test_fallback.py:\d+: .*softmax.*the keys are gathered at"):
        attnc.compile(few_keys, backend="reference", fallback="error")(*qkv())
    compiled = attnc.compile(few_keys, backend="reference")
    with pytest.warns(attnc.FallbackWarning, match="the keys are gathered at"):
        torch.testing.assert_close(compiled(*qkv()), few_keys(*qkv()))
    assert not compiled.lower(*qkv()).explain().fused


def test_silent_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attnc.compile(sorted_weights, backend="reference", fallback="silent")(*qkv())


def test_a_plan_from_disk_is_as_loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call() -> None:
        driver.forget()
        compiled = attnc.compile(sorted_weights, backend="reference", options={"cache_dir": str(tmp_path)})
        with pytest.warns(attnc.FallbackWarning, match=MESSAGE):
            compiled(*qkv())

    call()
    monkeypatch.delattr(emit, "Emitter")  # raising again would fail
    call()


def test_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "PER_KEY", 3)

    def each(q: Tensor) -> Tensor:
        return q * len(range(q.shape[0]))

    compiled = attnc.compile(each, backend="reference", fallback="silent")

    def check(n: int) -> None:
        assert torch.equal(compiled(torch.ones(n)), torch.full((n,), float(n)))

    for n in (5, 6, 7):
        check(n)
    with pytest.warns(attnc.RecompileWarning, match=r"test_fallback.py:\d+: each .* relies on a fact like N == \d+"):
        check(8)
    check(9)
    assert len(compiled._table) == 3


def test_kinds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "KEYS", 3)
    compiled = attnc.compile(lambda q, step: q + step, backend="reference", fallback="silent")

    def check(n: int) -> None:
        assert torch.equal(compiled(torch.zeros(2), n), torch.full((2,), float(n)))

    for n in range(3):
        check(n)
    with pytest.warns(attnc.RecompileWarning, match="the argument step has had 4 values"):
        check(3)
    check(4)
    assert len(compiled._table) == 3


class Module(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    @attnc.compile(backend="reference", fallback="silent")
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT * self.scale).softmax(-1) @ v


@attnc.compile(backend="reference")
def at_module_level(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


def test_deepcopy_and_pickle() -> None:
    module = Module()
    module(*qkv())
    module.fn = at_module_level
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.scale.fill_(2.0)
    q, k, v = qkv()
    torch.testing.assert_close(twin(q, k, v), (q @ k.mT * 2.0).softmax(-1) @ v)
    torch.testing.assert_close(module(q, k, v), (q @ k.mT * 0.5).softmax(-1) @ v)
    assert copy.deepcopy(at_module_level) is at_module_level
    with pytest.raises(TypeError, match="cannot be imported by name"):
        pickle.dumps(attnc.compile(lambda q: q))


def test_pickle_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or __import__(__name__))
    module = Module()
    module.fn = at_module_level
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    twin = torch.load(buffer, weights_only=False)
    assert twin.fn is at_module_level
    torch.testing.assert_close(twin(*qkv()), module(*qkv()))


def masked_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None]
    bias = torch.zeros(q.shape[-2], k.shape[-2])
    bias[j > i] = float("-inf")
    bias[:, 0] = 0.5
    weights = (q @ k.mT + bias).softmax(-1)
    return weights @ v


def test_writes_become_values() -> None:
    compiled = attnc.compile(masked_in_place, backend="reference", fallback="silent")
    for n in (12, 17):
        torch.testing.assert_close(compiled(*qkv(n)), masked_in_place(*qkv(n)))
