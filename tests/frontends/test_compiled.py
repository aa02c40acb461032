"""The compiled function as a value: captures, scalars, methods, gradients, recompilation."""

from __future__ import annotations

import copy
import threading

import pytest
import torch

import attnc

TABLE = torch.linspace(-1, 1, 64)
WINDOW = 4


def qkv(n: int = 12, m: int | None = None, d: int = 8) -> list[torch.Tensor]:
    torch.manual_seed(n)
    return [torch.randn(2, 3, size, d) for size in (n, m or n, m or n)]


def windowed(q, k, v):
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None]
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill((i - j).abs() > WINDOW, float("-inf"))
    return scores.softmax(-1) @ v


def biased(q, k, v, scale: float = 0.5):
    return ((q @ k.mT) * scale + TABLE[: k.shape[-2]]).softmax(-1) @ v


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.randn(3, 1, 1))
        self.window = 3

    @attnc.compile(backend="reference", fallback="silent")
    def forward(self, q, k, v):
        i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None]
        return (q @ k.mT + self.bias * (i - j)).masked_fill((i - j).abs() > self.window, float("-inf")).softmax(-1) @ v


def reference(fn, **options):
    return attnc.compile(fn, backend="reference", **options)


def traces(compiled) -> int:
    return len(compiled._table)


def check(compiled, *args, **kwargs) -> None:
    torch.testing.assert_close(compiled(*args, **kwargs), compiled.eager(*args, **kwargs), rtol=1e-5, atol=1e-5)


def test_new_sizes_do_not_recompile() -> None:
    f = reference(windowed)
    for n, m in ((12, 12), (7, 9), (1, 5), (30, 28)):
        check(f, *qkv(n, m))
    assert traces(f) == 1


def test_new_width_and_type_do() -> None:
    f = reference(windowed)
    check(f, *qkv(d=8))
    check(f, *qkv(d=4))
    check(f, *(x.double() for x in qkv()))
    assert traces(f) == 3


def test_a_float_is_data() -> None:
    f = reference(biased)
    for scale in (0.5, 0.25, 3.0):
        check(f, *qkv(), scale=scale)
    assert traces(f) == 1


def test_captured_tensor_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    f = reference(biased)
    check(f, *qkv())
    TABLE.mul_(2)
    check(f, *qkv())
    monkeypatch.setitem(globals(), "TABLE", torch.randn(64))
    check(f, *qkv())
    assert traces(f) == 1


def test_captured_number_is_part_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    f = reference(windowed)
    check(f, *qkv())
    monkeypatch.setitem(globals(), "WINDOW", 2)
    check(f, *qkv())
    assert traces(f) == 2


def test_closure() -> None:
    slope = torch.tensor(0.3)

    def f(q, k, v):
        return (q @ k.mT * slope).softmax(-1) @ v

    g = reference(f)
    check(g, *qkv())
    slope = torch.tensor(-0.3)
    check(g, *qkv())
    assert traces(g) == 1


def test_method_of_a_module() -> None:
    layer = Layer()
    with torch.no_grad():
        torch.testing.assert_close(layer(*qkv()), layer.forward.eager(*qkv()))
        layer.bias.mul_(3)
        torch.testing.assert_close(layer(*qkv()), layer.forward.eager(*qkv()))
        layer.window = 1
        torch.testing.assert_close(layer(*qkv()), layer.forward.eager(*qkv()))


def test_gradients_reach_arguments_and_captures() -> None:
    layer, inputs = Layer(), [x.requires_grad_() for x in qkv()]
    layer(*inputs).square().sum().backward()
    found = [x.grad for x in (*inputs, layer.bias)]
    for x in (*inputs, layer.bias):
        x.grad = None
    layer.forward.eager(*inputs).square().sum().backward()
    for a, x in zip(found, (*inputs, layer.bias), strict=True):
        torch.testing.assert_close(a, x.grad, rtol=1e-4, atol=1e-4)


def test_integer_argument_is_static() -> None:
    def f(q, k, v, groups: int):
        return torch.cat(
            [
                (a @ b.mT).softmax(-1) @ c
                for a, b, c in zip(q.chunk(groups, 2), k.chunk(groups, 2), v.chunk(groups, 2), strict=True)
            ],
            2,
        )

    g = reference(f, fallback="silent")
    check(g, *qkv(), 2)
    check(g, *qkv(), groups=3)
    assert traces(g) == 2


def test_branch_on_sizes_retraces() -> None:
    def f(q, k, v):
        scores = q @ k.mT
        return (scores * 2 if q.shape[-2] > 8 else scores).softmax(-1) @ v

    g = reference(f)
    for n in (4, 8, 9, 30):
        check(g, *qkv(n))
    assert traces(g) == 2


def test_structured_results() -> None:
    def f(q, k, v):
        return {"out": (q @ k.mT).softmax(-1) @ v, "length": q.shape[-2], "none": None}

    g = reference(f)
    for n in (5, 9):
        found, expected = g(*qkv(n)), f(*qkv(n))
        assert found["length"] == n
        assert found["none"] is None
        torch.testing.assert_close(found["out"], expected["out"])


def test_strides() -> None:
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in qkv())
    check(reference(windowed), q, k.expand(2, 3, 12, 8), v)


def test_threads_share_one_trace() -> None:
    f, inputs, failures = reference(windowed), qkv(), []

    def work() -> None:
        try:
            check(f, *inputs)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert traces(f) == 1


def test_sizes_that_a_reshape_names_are_guarded() -> None:
    def windows(q, k, v):
        b, h, n, d = q.shape
        q, k, v = (x.reshape(b, h, 2, 7, d) for x in (q, k, v))
        return ((q @ k.mT).softmax(-1) @ v).reshape(b, h, n, d)

    f = reference(windows)
    assert f(*torch.randn(3, 1, 2, 14, 8)).shape == (1, 2, 14, 8)
    with pytest.raises(attnc.AttncError, match="elements"):
        f(*torch.randn(3, 1, 2, 28, 8))  # not 2 windows of 7


def test_wraps_and_copies() -> None:
    f = reference(windowed)
    assert f.__name__ == "windowed"
    assert f.eager is windowed
    assert copy.deepcopy(f) is f
    assert copy.deepcopy(Layer())(*qkv()).shape == (2, 3, 12, 8)


def test_lower() -> None:
    text = reference(windowed).lower(*qkv()).ir("capture")
    assert "%q = arg q : [B, H, N, D] float32" in text
    assert "guard D_k == D" in text


def test_an_empty_row_has_gradient_zero():
    def earlier(q, k, v):
        i = torch.arange(q.shape[-2])[:, None]
        j = torch.arange(k.shape[-2])[None, :]
        return (q @ k.mT).masked_fill(j >= i - 2, -torch.inf).softmax(-1) @ v

    q, k, v = (torch.randn(1, 2, 9, 8, requires_grad=True) for _ in range(3))
    out = attnc.compile(earlier, fallback="silent")(q, k, v)
    out.sum().backward()
    assert (out[:, :, :3] == 0).all()
    assert (q.grad[:, :, :3] == 0).all()
    assert all(x.grad.isfinite().all() for x in (q, k, v))
