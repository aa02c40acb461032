"""Spellings of real code that were once refused, left to PyTorch, or compiled again for every length."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right

import attnc
from attnc.frontends.errors import TransformError, UnknownSizeError
from attnc.frontends.raising import raise_graph
from tests.numerics import assert_compiles

N, D = 13, 4
MHA = nn.MultiheadAttention(8, 2, batch_first=True)
LAYER = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
QKV = tuple(torch.randn(3, 2, 2, N, D, generator=torch.Generator().manual_seed(0)))
X = torch.randn(2, N, 8, generator=torch.Generator().manual_seed(1))


def module_with_padding(x: Tensor) -> Tensor:
    return MHA(x, x, x, key_padding_mask=torch.arange(N).expand(2, N) > 9, need_weights=False)[0]


def module_causal(x: Tensor) -> Tensor:
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
    return MHA(x, x, x, need_weights=False, attn_mask=mask, is_causal=True)[0]


def encoder_layer(x: Tensor) -> Tensor:
    return LAYER(x)


def lower_right(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[:, :, 4:], k, v, attn_mask=causal_lower_right(N - 4, N))


def three_operands(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = torch.einsum("h,bhid,bhjd->bhij", torch.tensor([0.3, 0.4]), q, k).softmax(-1)
    return torch.einsum("bhij,bhjd,h->bihd", p, v, torch.tensor([1.0, 2.0]))


def bilinear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhid,de,bhje->bhij", q, torch.eye(D) + 0.5, k).softmax(-1) @ v


def by_tensordot(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.tensordot(torch.tensordot(q[0, 0], k[0, 0], dims=([1], [1])).softmax(-1), v[0, 0], dims=1)


def band_of_diagonals(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n = q.shape[2]
    band = torch.diag(torch.ones(n)) + torch.diag(torch.ones(n - 1), 1) + torch.diag_embed(torch.ones(n - 2), -2)
    return (q @ k.mT).masked_fill(band == 0, float("-inf")).softmax(-1) @ v


def split_by_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    (a, b), (c, d, e) = torch.tensor_split(k, [5], dim=2), torch.tensor_split(v, 3, 2)
    return F.scaled_dot_product_attention(q, torch.cat([b, a], 2), torch.cat([d, c, e], 2))


def dropout_by_its_old_name(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.dropout((q @ k.mT).softmax(-1), 0.0, train=True) @ v


def sizes_divided_by_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows = torch.div(q.size(2) - 1, 4, rounding_mode="trunc")
    q, k, v = (x[:, :, 1:].reshape(4, rows, 4, D) for x in (q, k, v))
    return (q @ k.mT).softmax(-1) @ v


def rows_without_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = (q @ k.mT).masked_fill(torch.ones(N, N, dtype=torch.bool).triu(), float("-inf")).softmax(-1)
    return torch.where(torch.isnan(p), torch.zeros_like(p), p) @ v


def merged_by_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    outs, sums = [], []
    for a, b in zip(k.split(7, 2), v.split(7, 2), strict=True):
        s = q @ a.mT * 0.5
        outs.append(s.softmax(-1) @ b)
        sums.append(s.logsumexp(-1))
    return sum(w[..., None] * o for w, o in zip(torch.stack(sums).softmax(0), outs, strict=True))


def difference_of_softmaxes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = (q @ k.mT).softmax(-1)
    gate = torch.exp(torch.sum(q.mean((1, 2)) * 0.1))
    return (p[:, 0] - gate * p[:, 1]) @ v[:, 0]


def divided_by_a_sum_and_more(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = F.relu(q @ k.mT)
    return (p / (p.sum(-1, keepdim=True) + 1e-6)) @ v


def sum_and_a_tiny_number(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q @ k.mT
    e = (s - s.max(-1, keepdim=True).values).exp()
    return (e / (e.sum(-1, keepdim=True) + 1e-9)) @ v


def channels_of_an_image(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The features of a channel are rows and columns: one dimension, where the keys are read."""
    x = q[..., None].mul(k[:, :, :, None])  # (B, H, N, D, D)
    y = x.flatten(1, 2)
    y = y.view(2, y.shape[1], -1)
    return (y @ y.mT * 0.1).softmax(-1) @ y


def one_row_at_a_time(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows = []
    for i in range(3):  # the first has one key
        p = torch.einsum("bhd,bhjd->bhj", q[:, :, i], k[:, :, : i + 1]).softmax(-1)
        rows.append(torch.einsum("bhj,bhjd->bhd", p, v[:, :, : i + 1]))
    return torch.stack(rows, 2)


CASES: dict[Callable[..., Tensor], tuple[Tensor, ...]] = {
    **dict.fromkeys((module_with_padding, module_causal, encoder_layer), (X,)),
    **dict.fromkeys(
        (
            lower_right,
            three_operands,
            bilinear,
            by_tensordot,
            band_of_diagonals,
            split_by_place,
            dropout_by_its_old_name,
            sizes_divided_by_torch,
            rows_without_keys,
            merged_by_softmax,
            difference_of_softmaxes,
            divided_by_a_sum_and_more,
            sum_and_a_tiny_number,
            channels_of_an_image,
            one_row_at_a_time,
        ),
        QKV,
    ),
}


@pytest.mark.parametrize("fn", CASES, ids=lambda f: f.__name__)
def test_fused_and_right(fn: Callable[..., Any]) -> None:
    args = [x.clone().requires_grad_() for x in CASES[fn]]
    f = attnc.compile(fn, backend="reference", fallback="error")
    found, expected = f(*args), fn(*args).nan_to_num()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    given = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    mine = torch.autograd.grad(found, args, given, allow_unused=True, materialize_grads=True)
    if fn is not rows_without_keys:  # NaN in eager
        theirs = torch.autograd.grad(expected, args, given, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert f.lower(*CASES[fn]).explain().fused


def per_head_width(x: Tensor, w: Tensor) -> Tensor:
    b, n, c = x.size()
    q, k, v = (t.view(b, n, 2, c // 2).transpose(1, 2) for t in F.linear(x, w).split(c, dim=2))
    return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).contiguous().view(b, n, c)


def test_width_from_heads() -> None:
    """A width that is a multiple of the heads, over heads, says what the width is; the gradient compiles."""
    x, w = X.clone().requires_grad_(), torch.randn(24, 8, generator=torch.Generator().manual_seed(3)) / 3
    attnc.compile(per_head_width, backend="reference", fallback="error")(x, w).sum().backward()
    (expected,) = torch.autograd.grad(per_head_width(x, w).sum(), x)
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-5)


def outer_product_of_positions(q: Tensor, k: Tensor, v: Tensor, at: Tensor) -> Tensor:
    """A rotation by a matrix product with a width of 1."""
    angles = (torch.ones(1, D, 1) @ at[:, None, :].float()).mT[:, None]
    return F.scaled_dot_product_attention(q * angles.cos(), k * angles.cos(), v)


def test_a_reading_that_fails_leaves_no_guard() -> None:
    """Such a product is no attention, and finding that out must not fix the length."""
    graph = attnc.compile(outer_product_of_positions).trace(*QKV, torch.arange(N)[None])
    raise_graph(graph)
    assert not any(str(guard) == f"N == {N}" for guard in graph.guards)


def cut_from_a_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    live = torch.zeros(N, N, dtype=torch.bool)
    for i in range(N):
        live[i, max(0, i - 3) : i + 1] = True
    return F.scaled_dot_product_attention(q, k, v, attn_mask=live)


def test_a_mask_written_row_by_row_is_read() -> None:
    """A condition for each of its rows would be a kernel that takes a minute to compile."""
    f = attnc.compile(cut_from_a_mask, backend="reference")
    torch.testing.assert_close(f(*QKV), cut_from_a_mask(*QKV), rtol=1e-5, atol=1e-5)
    found = re.search('mask "([^"]*)"', str(f.lower(*QKV).module("attn")))
    assert found
    assert len(found[1]) < 50


def places_below(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n = q.shape[2]
    live = torch.zeros(n, n, dtype=torch.bool)
    rows, columns = torch.tril_indices(n, n)
    live[rows, columns] = True
    return F.scaled_dot_product_attention(q, k, v, attn_mask=live)


def test_a_mask_written_by_place_is_said() -> None:
    f = attnc.compile(places_below, backend="reference", fallback="silent")
    torch.testing.assert_close(f(*QKV), places_below(*QKV), rtol=1e-5, atol=1e-5)
    with pytest.raises(attnc.FallbackError, match="index_put"):
        attnc.compile(places_below, backend="reference", fallback="error")(*QKV)


def sums_to_a_wrong_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q @ k.mT
    e = (s - s.max(dim=-1, keepdim=True).values).exp()
    return e / (1 + e.sum(dim=-1, keepdim=True)) @ v


def test_scores_that_stay_beside_a_kernel_are_warned_of() -> None:
    f = attnc.compile(sums_to_a_wrong_one, backend="reference")
    with pytest.warns(attnc.FallbackWarning, match="matmul"):
        found = f(*QKV)
    torch.testing.assert_close(found, sums_to_a_wrong_one(*QKV), rtol=1e-5, atol=1e-5)


def without_the_greatest_of_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = 8 * q @ k.mT
    e = (s - s.max()).exp()
    return e @ v / e.sum(-1, keepdim=True).clamp_min(1e-6)


def masked_after_its_maximum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = 8 * q @ k.mT
    e = (s - s.amax(-1, keepdim=True)).exp() * torch.ones(N, N).tril()
    return e @ v / e.sum(-1, keepdim=True).clamp_min(1e-6)


def without_another_maximum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = 8 * q @ k.mT
    e = (s - (2 * s).abs().amax(-1, keepdim=True)).exp()
    return e @ v / e.sum(-1, keepdim=True).clamp_min(1e-6)


@pytest.mark.parametrize("fn", [without_the_greatest_of_all, masked_after_its_maximum, without_another_maximum])
def test_a_bound_that_matters_is_kept(fn: Callable[..., Any]) -> None:
    """Less the maximum of its live scores a row sums to 1 or more; less something greater, to less than the bound."""
    f = attnc.compile(fn, backend="reference", fallback="silent")
    torch.testing.assert_close(f(*QKV), fn(*QKV), rtol=1e-4, atol=1e-5)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    z = 1 / torch.einsum("bhnd,bhd->bhn", q, k.sum(2))
    return torch.einsum("bhnd,bhde->bhne", q, torch.einsum("bhnd,bhne->bhde", k, v)) * z[..., None]


def test_linear_attention_is_no_failed_attention() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attnc.compile(linear_attention, backend="reference")(*QKV)


def noisy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT + torch.randn(N, N)).softmax(-1) @ v


def test_compiling_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    found = attnc.compile(noisy, backend="reference")(*QKV)
    torch.manual_seed(0)
    torch.testing.assert_close(found, noisy(*QKV), rtol=1e-5, atol=1e-5)


def test_dropout_of_channels_is_not_that_of_elements() -> None:
    graph = attnc.compile(lambda q: F.dropout1d(q, 0.5)).trace(X)
    assert "dropout1d" in graph.nodes[-1].call


def test_a_function_of_torch_compile() -> None:
    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).softmax(-1) @ v

    f = attnc.compile(torch.compile(plain, backend="eager"), backend="reference", fallback="error")
    torch.testing.assert_close(f(*QKV), plain(*QKV), rtol=1e-5, atol=1e-5)


def over_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.vmap(F.scaled_dot_product_attention)(q, k, v)


def of_unknown_size(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(q.shape[2], q.shape[2])
    return rows + torch.ones(91)


@pytest.mark.parametrize(("fn", "error"), [(over_heads, TransformError), (of_unknown_size, UnknownSizeError)])
def test_errors_name_the_line(fn: Callable[..., Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"test_found_spellings\.py:\d+: return (torch\.vmap|rows)"):
        attnc.compile(fn, backend="reference")(*QKV)


def scattered(kind: str) -> Callable[..., Tensor]:
    """Attention whose scores are written to by a function that gives a new tensor."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = q @ k.mT / 4
        if kind == "select":
            s = torch.select_scatter(s, torch.full(s.shape[:-1], 0.5), -1, 0)
        elif kind == "slice":
            s = torch.slice_scatter(s, torch.zeros(*s.shape[:-1], 2), -1, 3, 5)
        elif kind == "diagonal":
            length = min(s.shape[-2], s.shape[-1] - 1)
            s = torch.diagonal_scatter(s, torch.zeros(*s.shape[:-2], length), 1, -2, -1)
        else:
            seen = torch.arange(s.shape[-1]) <= torch.arange(s.shape[-2])[:, None]
            s = s + torch.index_put(torch.zeros(s.shape[-2:]), (~seen,), torch.tensor(-torch.inf))
        return s.softmax(-1) @ v

    return attention


@pytest.mark.parametrize("kind", ["select", "slice", "diagonal", "masked"])
def test_writes_called_as_functions(kind: str) -> None:
    q, k, v = torch.randn(3, 1, 2, 9, 8, generator=torch.Generator().manual_seed(0)).unbind()
    assert_compiles(scattered(kind), (q, k, v), "reference")


def test_what_has_no_deterministic_form() -> None:
    q, k, v = torch.randn(3, 1, 2, 9, 8).unbind()
    f = attnc.compile(lambda q, k, v: (q @ k.mT - (q @ k.mT).median(-1, True).values).softmax(-1) @ v)
    with pytest.raises(attnc.AttncError, match="no deterministic median"):
        f(q, k, v)
