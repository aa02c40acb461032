"""Gradients of compiled functions: derived, exact, no more than asked for; and what stays with PyTorch says so."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

import attnc
from attnc.compiler import driver
from attnc.compiler.errors import StageError
from attnc.compiler.plan import Plan

Tensor = torch.Tensor
BACKENDS = ("cpu", "reference")


def positions(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None]


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    i, j = positions(q, k)
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(j > i, -torch.inf).softmax(-1) @ v


def table_twice(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    i, j = positions(q, k)
    scores = q @ k.mT * (1 + table[(i - j).clamp(-2, 2) + 2]) + table[(i + j) % 5]
    return scores.softmax(-1) @ v


def temperature(q: Tensor, k: Tensor, v: Tensor, scale: Tensor) -> Tensor:
    return (q @ k.mT * scale).softmax(-1) @ v


def sinks(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    i, j = positions(q, k)
    scores = (q @ k.mT).masked_fill(j > i, -torch.inf)
    scores = torch.cat([sink[:, None, None].expand(*scores.shape[:-1], 1), scores], -1)
    return scores.softmax(-1)[..., 1:] @ v


def gqa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    return causal(q, k, v)


def pooled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.unflatten(-2, (x.shape[-2] // 2, 2)).mean(-2) for x in (k, v))
    return (q @ k.mT).softmax(-1) @ v


def reordered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.roll(2, -2).unflatten(-2, (x.shape[-2] // 3, 3)) for x in (q, k, v))
    return ((q @ k.mT).softmax(-1) @ v).flatten(-3, -2).roll(-2, -2)


def merged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two attentions weighted by their own sums of exponentials."""
    i, j = positions(q, k)
    scores = q @ k.mT
    near = scores.masked_fill((i - j).abs() > 1, -torch.inf)
    a, b = near.logsumexp(-1), scores.logsumexp(-1)
    gate = torch.sigmoid(a - b)[..., None]
    return gate * (near.softmax(-1) @ v) + (1 - gate) * (scores.softmax(-1) @ v)


def qkv(n: int = 6, d: int = 2, heads: int = 2, kv: int | None = None, dtype: Any = torch.float64) -> list[Tensor]:
    torch.manual_seed(n)
    return [torch.randn(1, h, n, d, dtype=dtype, requires_grad=True) for h in (heads, kv or heads, kv or heads)]


def leaf(*shape: int) -> Tensor:
    torch.manual_seed(7)
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


CASES: dict[str, tuple[Callable[..., Tensor], Callable[[], list[Tensor]]]] = {
    "causal": (causal, qkv),
    "table_twice": (table_twice, lambda: [*qkv(), leaf(5)]),
    "temperature": (temperature, lambda: [*qkv(), leaf()]),
    "sinks": (sinks, lambda: [*qkv(), leaf(2)]),
    "gqa": (gqa, lambda: qkv(heads=4, kv=2)),
    "pooled": (pooled, qkv),
    "reordered": (reordered, qkv),
    "merged": (merged, qkv),
}


def compiled(fn: Callable[..., Any], backend: str = "reference", **rest: Any) -> attnc.CompiledAttention:
    return attnc.compile(fn, backend=backend, **rest)


def plans(f: attnc.CompiledAttention) -> list[Plan]:
    """The gradient plans that a function has so far."""
    return [p for row in f._table.rows.values() for s in row for p in s.gradients.values() if isinstance(p, Plan)]


def same(found: Any, expected: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name: str, backend: str) -> None:
    fn, inputs = CASES[name]
    f = compiled(fn, backend)  # a warning that something is eager would be an error
    torch.testing.assert_close(f(*inputs()), fn(*inputs()))
    assert torch.autograd.gradcheck(f, inputs(), fast_mode=backend == "reference")
    assert plans(f)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_tensor_in_three_places(backend: str) -> None:
    f, x = compiled(causal, backend), qkv()[0]
    same(torch.autograd.grad(f(x, x, x).sum(), x), torch.autograd.grad(causal(x, x, x).sum(), x))


def test_only_what_is_wanted_is_computed() -> None:
    f, (q, k, v) = compiled(causal, "cpu"), qkv(dtype=torch.float32)
    outcomes = {}
    for wanted in ("q", "v", "qkv"):
        x = [t.detach().requires_grad_(name in wanted) for t, name in zip((q, k, v), "qkv", strict=True)]
        f(*x).square().sum().backward()
        assert [t.grad is not None for t in x] == [name in wanted for name in "qkv"]
        outcomes[wanted] = plans(f)[-1]
    assert outcomes["q"].kernels == ["causal_delta", "causal_query"]
    assert outcomes["v"].kernels == ["causal_key0"]
    assert [len(p.results) for p in outcomes.values()] == [1, 1, 3]


def test_only_given_outputs_are_differentiated() -> None:
    def two(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return causal(q, k, v), (q @ k.mT).softmax(-1) @ v, q.argmax(-1)

    f, inputs = compiled(two, "cpu"), qkv()
    a, b, index = f(*inputs)
    assert not index.requires_grad
    same(torch.autograd.grad(a.sum(), inputs, retain_graph=True), torch.autograd.grad(two(*inputs)[0].sum(), inputs))
    assert len(plans(f)[-1].kernels) == 2
    loss = [(x[0] * x[1]).sum() for x in ((a, b), two(*inputs))]
    same(torch.autograd.grad(loss[0], inputs), torch.autograd.grad(loss[1], inputs))
    assert len(plans(f)[-1].kernels) == 4


def test_twice_the_same_bits() -> None:
    f, inputs = compiled(table_twice, "cpu"), [*qkv(45, 8, dtype=torch.float32), leaf(5).float().detach()]
    inputs[3].requires_grad_()
    out = f(*inputs)
    first, second = (torch.autograd.grad(out.square().sum(), inputs, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_any_strides(backend: str) -> None:
    f, inputs = compiled(causal, backend), qkv(9, 4)
    out, expected = f(*inputs), causal(*inputs)
    base = torch.randn(4, 18, 2, 1, dtype=torch.float64).permute(3, 2, 1, 0)[:, :, ::2]
    for gradient in (torch.ones((), dtype=torch.float64).expand(out.shape), base, base[:, :, :1].expand(out.shape)):
        same(*(torch.autograd.grad(o, inputs, gradient, retain_graph=True) for o in (out, expected)))


def test_results_of_every_kind() -> None:
    def many(q: Tensor, k: Tensor, v: Tensor, at: Tensor) -> Any:
        out = causal(q, k, v)
        return {"out": out, "again": out, "argument": q, "index": at + 1, "view": [out.mT, k.mT], "size": q.shape[2]}

    def loss(r: Any) -> Tensor:
        parts = [r["out"] * 2, r["again"] ** 2, r["argument"] ** 3, *(x.exp() for x in r["view"])]
        return sum(p.sum() for p in parts)

    f, inputs, at = compiled(many, "cpu"), qkv(), torch.arange(4)
    found, expected = f(*inputs, at), many(*inputs, at)
    assert not found["index"].requires_grad
    assert found["size"] == 6
    same(torch.autograd.grad(loss(found), inputs), torch.autograd.grad(loss(expected), inputs))
    with torch.no_grad():
        f(*inputs, at)
    f(*inputs, at)["view"][0].mul_(2)  # a result is the caller's


def test_writing_to_what_the_gradient_needs_is_an_error() -> None:
    f, (q, k, v) = compiled(causal), qkv()
    scaled = q * 2
    out = f(scaled, k, v)
    scaled.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_without_gradients() -> None:
    f, inputs = compiled(causal), qkv()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not f(*inputs).requires_grad
    assert not f(*(x.detach() for x in inputs)).requires_grad
    assert not plans(f)


def test_no_keys_and_no_queries() -> None:
    def cross(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).softmax(-1) @ v

    f, (q, k, v) = compiled(cross, "cpu"), qkv()
    for inputs in ((q, k[:, :, :0], v[:, :, :0]), (q[:, :, :0], k, v), (q[:0], k[:0], v[:0])):
        grads = torch.autograd.grad(f(*inputs).sum(), inputs)
        assert [g.shape for g in grads] == [x.shape for x in inputs]
        assert all((g == 0).all() for g in grads)


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.randn(2, 6, 6, dtype=torch.float64))

    @attnc.compile(backend="cpu", fallback="error")
    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float = 0.5) -> Tensor:
        return (q @ k.mT * scale + self.bias).softmax(-1) @ v


def test_parameters_and_floats() -> None:
    layer, inputs = Layer(), qkv()
    for scale in (0.5, 2.0):
        wanted = [*inputs, layer.bias]
        losses = [fn(*inputs, scale).square().sum() for fn in (layer, layer.forward.eager)]
        same(*(torch.autograd.grad(loss, wanted) for loss in losses))


def test_checkpoint_and_hooks() -> None:
    f, inputs = compiled(causal, "cpu", fallback="error"), qkv()
    expected = torch.autograd.grad(causal(*inputs).square().sum(), inputs)
    same(torch.autograd.grad(checkpoint(f, *inputs, use_reentrant=False).square().sum(), inputs), expected)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or len(kept) - 1, lambda n: kept[n]):
        out = f(*inputs)
    assert len(kept) == 5  # q, k, v, the output and its log-sum-exp
    same(torch.autograd.grad(out.square().sum(), inputs), expected)


def test_the_graph_does_not_hold_what_hooks_move_away() -> None:
    import weakref

    f, (q, k, v) = compiled(causal), qkv()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach().clone(), lambda x: x):
        middle = q * 2
        gone = weakref.ref(middle)
        out = f(middle, k, v)
        del middle
    assert gone() is None
    out.sum().backward()


def test_threads() -> None:
    f, failures = compiled(causal, "cpu", fallback="error"), []

    def work() -> None:
        try:
            inputs = qkv(11, 4)
            same(*(torch.autograd.grad(fn(*inputs).sum(), inputs) for fn in (f, causal)))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert len(plans(f)) == 1


def test_autocast_gradients_have_the_type_of_the_inputs() -> None:
    f, inputs = compiled(causal, "cpu", fallback="error"), qkv(20, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = f(*inputs)
        assert out.dtype == torch.bfloat16
    exact = torch.autograd.grad(causal(*(x.double() for x in inputs)).sum(), inputs)
    for inside in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            grads = torch.autograd.grad(out.sum(), inputs, retain_graph=True)
        for g, e in zip(grads, exact, strict=True):
            assert g.dtype == torch.float32
            torch.testing.assert_close(g, e, rtol=0.05, atol=0.05)


# ---- what stays with PyTorch ------------------------------------------------------------------------------


def test_double_backward_runs_the_function_as_written() -> None:
    f, inputs = compiled(temperature, "cpu"), [*qkv(4), leaf()]
    with pytest.warns(attnc.FallbackWarning, match=r"test_gradient.py:\d+.*gradient of temperature.*create_graph=True"):
        assert torch.autograd.gradgradcheck(f, inputs)


def test_double_backward_of_a_captured_tensor() -> None:
    bias = leaf(6, 6)

    def biased(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT + bias).softmax(-1) @ v

    inputs, second = qkv(), []
    for fn in (compiled(biased, fallback="silent"), biased):
        (first,) = torch.autograd.grad(fn(*inputs).square().sum(), inputs[0], create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), [*inputs, bias]))
    same(*second)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own, when forward mode is first used
def test_forward_mode_runs_the_function_as_written() -> None:
    f, (q, k, v) = compiled(causal), (x.detach() for x in qkv())
    with fwAD.dual_level():
        dual = fwAD.make_dual(q, torch.ones_like(q))
        with pytest.warns(attnc.FallbackWarning, match="forward-mode"):
            found = f(dual, k, v)
        same(fwAD.unpack_dual(found), fwAD.unpack_dual(causal(dual, k, v)))


def dropped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.dropout(causal(q, k, v), 0.5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_draws_the_same_mask_again(backend: str) -> None:
    f, inputs = compiled(dropped, backend), qkv()
    torch.manual_seed(3)
    out = f(*inputs)
    torch.rand(5)
    state = torch.get_rng_state()
    with pytest.warns(attnc.FallbackWarning, match="gradient of dropped.*draws random numbers"):
        found = torch.autograd.grad(out.sum(), inputs)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    expected = dropped(*inputs)
    torch.testing.assert_close(out, expected)
    same(found, torch.autograd.grad(expected.sum(), inputs))
    f(*inputs).sum().backward()  # said once; a warning would be an error here


def test_error_and_silent() -> None:
    out = compiled(dropped, fallback="error")(*qkv())
    with pytest.raises(attnc.GradientNotAvailable, match=r"test_gradient.py:\d+.*draws random numbers.*no_grad"):
        out.sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(dropped, fallback="silent")(*qkv()).sum().backward()


def test_a_capture_that_changed_since() -> None:
    bias = leaf(6, 6)

    def biased(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.dropout((q @ k.mT + bias).softmax(-1) @ v, 0.5)

    f, inputs, first = compiled(biased, fallback="silent"), qkv(), bias
    torch.manual_seed(0)
    out = f(*inputs)
    bias = torch.zeros_like(bias)
    found = torch.autograd.grad(out.sum(), [*inputs, first])
    bias = first
    torch.manual_seed(0)
    same(found, torch.autograd.grad(biased(*inputs).sum(), [*inputs, first]))


# ---- compilation ----------------------------------------------------------------------------------------


def test_the_gradient_at_every_stage() -> None:
    lowered = compiled(causal, "cpu").lower(*qkv())
    backward = lowered.backward()
    assert 'attn.attend_gradient of "query", "key0", "value0"' in backward.ir("attn")
    assert "tile.kernel @causal_key0" in backward.ir("tile")
    assert "causal_key0" in backward.source()
    assert backward.ir("capture") == lowered.ir("capture")
    assert '"value0"' in (only := lowered.backward(["v"]).ir("attn"))
    assert '"query"' not in only
    with pytest.raises(StageError, match="no argument 'w'"):
        lowered.backward(["w"])
    with pytest.raises(StageError, match="gradients already"):
        backward.backward()


def test_plans_are_shared_by_key() -> None:
    driver.forget()
    inputs = qkv()
    first, second = compiled(causal, "cpu"), compiled(causal, "cpu")
    for f in (first, second):
        f(*inputs).sum().backward()
    assert plans(first)[0] is plans(second)[0]
    driver.forget()
    third = compiled(causal, "cpu")
    third(*inputs).sum().backward()
    assert plans(third)[0] is not plans(first)[0]
    assert plans(third)[0].to_json() == plans(first)[0].to_json()


PROCESS = """
import sys, torch, attnc

def causal(q, k, v):
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None]
    return (q @ k.mT).masked_fill(j > i, -torch.inf).softmax(-1) @ v

inputs = [torch.linspace(-1, 1, 80).reshape(1, 2, 5, 8).requires_grad_() for _ in range(3)]
attnc.compile(causal, backend="cpu", fallback="error")(*inputs).square().sum().backward()
print(sum(x.grad.sum().item() for x in inputs))
heavy = ("xdsl", "torch_mlir", "triton", "islpy")
print(sorted(m for m in sys.modules if m.split(".")[0] in heavy) or "light")
"""


def test_a_warm_process_imports_no_compiler(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(PROCESS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "ATTNC_CACHE_DIR": str(tmp_path / "c")}
    command = [sys.executable, str(tmp_path / "f.py")]
    runs = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    (first, cold), (second, warm) = (r.stdout.split("\n")[:2] for r in runs)
    assert first == second
    assert cold != "light"
    assert warm == "light"


def shifted_windows(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """Windows of 8 tokens with a bias for every offset in one, which all windows share."""
    q, k, v = (x.roll(-3, 2).unflatten(2, (-1, 8)) for x in (q, k, v))
    i = torch.arange(8)
    bias = table[:, i[:, None] - i[None, :] + 7]
    return ((q @ k.mT + bias[:, None]).softmax(-1) @ v).flatten(2, 3).roll(3, 2)


def test_small_groups_add_up_before_the_table() -> None:
    """What is written where the output was needs no scatter; of the bias, only a sum for each pair of a window does."""
    inputs = [torch.randn(2, 3, 40, 6) for _ in range(3)] + [torch.randn(3, 15)]
    leaves = [x.double().requires_grad_() for x in inputs]
    compiled = attnc.compile(shifted_windows, fallback="error")
    text = compiled.lower(*leaves).backward().ir("tile")
    assert text.count("attn.scatter") == 1
    assert 'attn.scatter %0 over "h < H, i < 8, j < 8"' in text
    d_out = torch.randn(2, 3, 40, 6, dtype=torch.float64)
    found = torch.autograd.grad(compiled(*leaves), leaves, d_out)
    for a, b in zip(found, torch.autograd.grad(shifted_windows(*leaves), leaves, d_out), strict=True):
        torch.testing.assert_close(a, b)
