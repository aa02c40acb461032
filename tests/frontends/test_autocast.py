"""Under ``torch.autocast`` a compiled function gives the types and numbers of the eager one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

import attnc
from attnc.frontends import autocast
from attnc.frontends.tracer import op_name

Tensor = torch.Tensor


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / 4).softmax(-1) @ v


def einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (torch.einsum("bhid,bhjd->bhij", q, k) / 4).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def projected(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return dense(F.linear(q, k[0, 0, :16]), k, v)


def inside(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = q @ k.mT
    return (scores.float() / 4).softmax(-1) @ v


def qkv() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, 40, 16) for _ in range(3)]


@pytest.mark.parametrize("fn", [dense, einsum, sdpa, projected, inside], ids=lambda f: f.__name__)
def test_same_type_and_numbers(fn: Callable[..., Tensor]) -> None:
    compiled = attnc.compile(fn, backend="reference", fallback="silent")
    for enabled in (False, True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found, expected = compiled(*qkv()), fn(*qkv())
        assert found.dtype == expected.dtype
        exact = fn(*(x.double() for x in qkv())) if fn is not inside else expected.double()
        eps = torch.finfo(torch.bfloat16 if enabled or fn is inside else torch.float32).eps
        limit = 2 * (expected - exact).abs().max() + 16 * eps * exact.abs().max()
        assert (found - exact).abs().max() <= limit
    assert len(compiled._table) == 2


def test_double_stays_double() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attnc.compile(dense, backend="reference")(*(x.double() for x in qkv()))
    assert out.dtype == torch.float64


def test_gradient_outside_the_context() -> None:
    compiled, inputs = attnc.compile(dense, backend="reference"), [x.requires_grad_() for x in qkv()]
    grads, draws = [], torch.randint(-8, 9, (4, 2, 3, 40, 16), generator=torch.Generator().manual_seed(1)) / 8
    for fn, low in ((compiled, True), (dense, True), (dense, False)):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            out = fn(*(inputs if low else [x.double() for x in inputs]))
        grads.append([torch.autograd.grad(out, inputs, d.to(out.dtype), retain_graph=True) for d in draws])
    for found, same, exact in zip(*(zip(*g, strict=True) for g in grads), strict=True):
        own = max((s - e).abs().max() for s, e in zip(same, exact, strict=True))
        limit = 2 * own + 4 * torch.finfo(torch.bfloat16).eps * max(e.abs().max() for e in exact)
        assert all(f.dtype == torch.float32 and (f - e).abs().max() <= limit for f, e in zip(found, exact, strict=True))
    assert not torch.is_autocast_enabled("cpu")


ARGS = {
    "addbmm": [(3, 4), (2, 3, 5), (2, 5, 4)],
    "addmm": [(3, 4), (3, 5), (5, 4)],
    "baddbmm": [(2, 3, 4), (2, 3, 5), (2, 5, 4)],
    "bmm": [(2, 3, 4), (2, 4, 5)],
    "cat": [[(2, 3), (2, 3)]],
    "cdist": [(3, 4), (5, 4)],
    "exp": [(3,)],
    "log_softmax": [(3, 4), -1],
    "matmul": [(3, 4), (4, 5)],
    "mm": [(3, 4), (4, 5)],
    "pow": [(3,), 2],
    "prod": [(3,)],
    "quantile": [(9,), 0.5],
    "softmax": [(3, 4), -1],
    "sum": [(3, 4)],
    "trace": [(3, 3)],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ARGS)
def test_type_of_each_op_is_pytorchs(name: str, dtype: torch.dtype) -> None:
    op = getattr(torch, name)

    def tensors(x: object) -> object:
        return torch.ones(x, dtype=dtype) if isinstance(x, tuple) else [*map(tensors, x)] if isinstance(x, list) else x

    def call(q: Tensor, *args: object) -> Tensor:
        return op(*args)

    args = [tensors(x) for x in ARGS[name]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        try:
            expected = op(*args).dtype
        except RuntimeError as error:  # not implemented for bfloat16, say
            pytest.skip(str(error))
        graph = attnc.compile(call).trace(torch.ones(2), *args)
    assert graph.output_nodes()[0].dtype == expected, op_name(op)


def test_lists_name_ops_of_autocast() -> None:
    for name in (*autocast._LOW.split(), *autocast._WIDEST.split()):
        assert autocast._listed(name, "cuda") or autocast._listed(name, "cpu") or name == "cat" or name == "stack", name
