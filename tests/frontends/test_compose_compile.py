"""Inside torch.compile: one graph, right gradients, captured tensors as inputs, no needless recompilation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import attnc
from attnc.frontends import library, observed, programs

from .compose_models import Layer, Out, attend, close, qkv, same_gradients, written

BACKENDS = ["eager", "aot_eager"]


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def compiled(fn: Callable[..., Any], backend: Any = "aot_eager", **options: Any) -> Callable[..., Any]:
    return torch.compile(fn, fullgraph=True, backend=backend, **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_function_with_a_captured_table(backend: str) -> None:
    counter = CompileCounter()
    f = compiled(lambda q, k, v: attend(q * 2, k, v, scale=0.25) + 1, counter if backend == "eager" else backend)
    for n in (12, 20, 33, 40):
        x = qkv(n, grad=True)
        same_gradients(f(*x), attend.eager(x[0] * 2, x[1], x[2], scale=0.25) + 1, x)
    assert counter.frame_count <= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch about itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor() -> None:
    f, layer = compiled(lambda layer, *x: layer(*x).relu(), "inductor"), Layer()
    for n in (12, 20):
        x = qkv(n, grad=True)
        same_gradients(f(layer, *x), layer.as_written(*x).relu(), [*x, *layer.parameters()])


def test_marked_dimensions_compile_once() -> None:
    counter, before = CompileCounter(), len(attend._table)
    f = compiled(attend, counter)
    for n in (14, 21, 35):
        x = qkv(n)
        for t in x:
            torch._dynamo.mark_dynamic(t, 2)
        close(f(*x), attend.eager(*x))
    assert counter.frame_count == 1
    assert len(attend._table) - before <= 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers(backend: str) -> None:
    layers = torch.nn.ModuleList(Layer(window) for window in (3, 1))

    def model(q, k, v):
        for layer in layers:
            q = layer(q, k, v)
        return q

    def as_written(q, k, v):
        for layer in layers:
            q = layer.as_written(q, k, v)
        return q

    f = compiled(model, backend)
    for n in (12, 17):
        x = qkv(n, grad=True)
        same_gradients(f(*x), as_written(*x), [*x, *layers.parameters()])
    layers[0].window = 2  # what the program relies on is guarded
    close(f(*x), as_written(*x))


def test_like_layers_share_a_graph() -> None:
    counter = CompileCounter()
    for layer in [Layer(), Layer(), Layer()]:
        x = qkv()
        close(compiled(layer, counter)(*x), layer.as_written(*x))
    assert counter.frame_count == 1
    for layer in [Layer(by=0.25), Layer(window=1)]:
        close(compiled(layer, counter)(*x), layer.as_written(*x))
    assert counter.frame_count == 3


def test_closure() -> None:
    slope = torch.tensor([0.3, 0.2, 0.1], requires_grad=True)
    f = attnc.compile(lambda q, k, v: (q @ k.mT * slope[:, None, None]).softmax(-1) @ v, fallback="silent")
    g, x = compiled(lambda *x: f(*x) * 2), qkv(grad=True)
    same_gradients(g(*x), f.eager(*x) * 2, [*x, slope])


def test_grouped_heads_and_integers() -> None:
    @attnc.compile(backend="cpu", fallback="silent")
    def grouped(q, k, v, groups: int):
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return (q @ k.mT).softmax(-1) @ v

    f = compiled(lambda *x: grouped(*x, 2))
    x = qkv(heads=6, grad=True)
    same_gradients(f(*x), grouped.eager(*x, 2), x)


def test_a_float_is_data() -> None:
    counter = CompileCounter()
    f = compiled(lambda q, k, v, scale: attend(q, k, v, scale) * 1, counter)
    x, before = qkv(), len(attend._table)
    for scale in (0.5, 0.75, -1.5, 3.0):
        close(f(*x, scale), attend.eager(*x, scale))
    assert len(attend._table) - before <= 1
    assert counter.frame_count <= 2


def test_structured_results() -> None:
    @attnc.compile(backend="reference", fallback="silent")
    def f(q, k, v):
        weights = (q @ k.mT).softmax(-1)
        return Out(weights @ v, {"length": q.shape[-2], "none": None, "twice": (weights @ v * 2, [v])})

    for n in (5, 9):
        found, expected = compiled(f)(*qkv(n)), f.eager(*qkv(n))
        assert isinstance(found, Out)
        close(found.result, expected.result)
        assert found.rest["length"] == n
        assert found.rest["none"] is None
        close(found.rest["twice"], expected.rest["twice"])


def test_autocast() -> None:
    def run(f, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return f(*x)

    f = attnc.compile(written, backend="cpu", fallback="silent")
    g, x = compiled(lambda *x: run(f, x)), qkv(grad=True)
    found, expected = g(*x), run(f, x)
    assert found.dtype == torch.bfloat16
    close(found, expected, 0)
    weight = torch.ones_like(found)
    for a, b in zip(torch.autograd.grad(found, x, weight), torch.autograd.grad(expected, x, weight), strict=True):
        close(a, b, 0)


def test_no_grad_and_inference_mode() -> None:
    f, x = compiled(lambda *x: attend(*x) * 2), qkv()
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            close(f(*x), attend.eager(*x) * 2)
            close(attend(*x), attend.eager(*x))


def test_checkpoint_inside() -> None:
    from torch.utils.checkpoint import checkpoint

    layer, x = Layer(), qkv(grad=True)
    f = compiled(lambda *x: checkpoint(layer, *x, use_reentrant=False))
    same_gradients(f(*x), layer.as_written(*x), [*x, *layer.parameters()])


def test_mistakes_keep_their_message() -> None:
    @attnc.compile(backend="cpu")
    def branches(q, k, v):
        return (q @ k.mT).softmax(-1) @ v if q.sum() > 0 else v

    with pytest.raises(Exception, match=r"test_compose_compile.py:\d+.*Python branch on a tensor's values"):
        compiled(branches)(*qkv())

    @attnc.compile(backend="cpu", fallback="silent")
    def drops(q, k, v):
        return torch.nn.functional.dropout((q @ k.mT).softmax(-1), 0.5) @ v

    with pytest.raises(Exception, match="draws random numbers"):
        compiled(drops)(*qkv())


def test_functorch_inside_is_refused() -> None:
    with pytest.raises(Exception, match=r"transform outside of torch\.compile"):
        compiled(torch.vmap(attend))(*qkv())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_opcheck(backend: str) -> None:
    f = attnc.compile(written, backend=backend, fallback="silent")
    x = qkv(grad=True)
    program = programs.program_of(observed.specialised(f, (*x, 0.5)), f)
    inputs = [*x, torch.tensor(0.5, dtype=torch.float64)]
    for saving in (True, False):
        torch.library.opcheck(torch.ops.attnc.run.default, (program.name, inputs, saving))
    out = library.run(program.name, inputs, True)
    kept = [out[n].detach() for n in program.saved]
    for grad in (False, True):
        sources = inputs if grad else [t.detach() for t in inputs]
        gradient = torch.ones_like(out[0], requires_grad=grad)
        args = (program.name, sources, kept, [gradient], [0], [0, 1, 2])
        torch.library.opcheck(torch.ops.attnc.run_backward.default, args)
