"""A score that is a sum of inner products takes one product over all their features."""

from __future__ import annotations

import pytest
import torch

import attnc

from ..numerics import assert_compiles

B, H, D = 2, 3, 5


def tensors(*shapes):
    torch.manual_seed(0)
    return [torch.randn(s) for s in shapes]


def causal(scores):
    n, m = scores.shape[-2:]
    return scores.masked_fill(torch.ones(n, m, dtype=torch.bool).triu(1 + m - n), float("-inf"))


def content_and_position(q, k, v, qr, kr):
    return causal((q @ k.mT + qr @ kr.mT) / 3).softmax(-1) @ v


def shared_by_heads(q, k, v, qr, kr):
    """The second keys have no heads; the second queries are written on the right."""
    position = torch.einsum("bmr,bhnr->bhnm", kr, qr)
    return causal(torch.einsum("bhnd,bhmd->bhnm", q, k) * 0.5 + position * 0.5).softmax(-1) @ v


def weighted(q, k, v, qr, kr, bias):
    return (0.5 * (q @ k.mT) - 0.25 * (qr @ kr.mT) + bias).softmax(-1) @ v


def capped_sum_of_three(q, k, v, qr, kr):
    scores = q @ k.mT + qr @ kr.mT + v.mean(-2, keepdim=True) @ v.mT
    return (5 * torch.tanh(scores / 5)).softmax(-1) @ v


def inputs(fn, n, m):
    q, k, v, qr, kr = tensors((B, H, n, D), (B, H, m, D), (B, H, m, 7), (B, H, n, 3), (B, H, m, 3))
    if fn is shared_by_heads:
        kr = kr[:, 0]
    return [q, k, v, qr, kr] + (tensors((H, n, m)) if fn is weighted else [])


@pytest.mark.parametrize("size", [(1, 1), (13, 13), (67, 67), (3, 71), (5, 0)], ids=str)
@pytest.mark.parametrize("fn", [content_and_position, shared_by_heads, weighted, capped_sum_of_three])
def test_numbers(fn, size):
    args = inputs(fn, *size)
    assert_compiles(fn, args)


@pytest.mark.parametrize("fn", [content_and_position, shared_by_heads])
def test_triton(fn):
    args = inputs(fn, 17, 17)
    assert_compiles(fn, args, "triton")


def disentangled(q, k, v, of_queries, of_keys):
    """What queries and keys find in small tables at their distance; the first row is scaled as a whole."""
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    near = (i - j).clamp(-2, 2) + 2
    scores = q @ k.mT + (q @ of_queries.mT)[:, :, i, near] + (k @ of_keys.mT)[:, :, j, near]
    return causal(torch.where(i == 0, scores * 0.5, scores) / 3).softmax(-1) @ v


@pytest.mark.parametrize(("backend", "n"), [("cpu", 7), ("cpu", 67), ("triton", 19)])
def test_products_with_a_small_table_are_looked_up(backend, n):
    args = tensors(*[(B, H, n, D)] * 3, (H, 5, D), (H, 5, D))
    assert_compiles(disentangled, args, backend)


def test_one_product_over_all_features():
    low = attnc.compile(content_and_position, backend="cpu").lower(*inputs(content_and_position, 16, 16))
    assert low.explain().fused
    assert "width 8" in low.ir("attn")
    assert low.ir("tile").count("tile.dot") == 4  # two loops, each with one product of scores and one of values


def test_keys_without_heads_are_not_copied_for_each():
    """Latent attention: the joined key of all heads is one tensor."""

    def absorbed(q, latent, qr, kr):
        scores = torch.einsum("bhnc,bmc->bhnm", q, latent) + torch.einsum("bhnr,bmr->bhnm", qr, kr)
        return torch.einsum("bhnm,bmc->bhnc", scores.softmax(-1), latent)

    args = tensors((B, H, 4, 6), (B, 9, 6), (B, H, 4, 2), (B, 9, 2))
    low = attnc.compile(absorbed, backend="cpu").lower(*args)
    assert low.explain().fused
    assert any(f'key %{name} "b, j, d"' in low.ir("attn") for name in ("concatenated", "concatenated_1"))


def apart(q, k, v, qr, kr):
    return (q @ k.mT + torch.tanh(qr @ kr.mT)).softmax(-1) @ v


def multiplied(q, k, v, qr, kr):
    return ((q @ k.mT) * (qr @ kr.mT)).softmax(-1) @ v


def per_row(q, k, v, qr, kr):
    return (q @ k.mT + (qr @ kr.mT) * qr.sum(-1, keepdim=True)).softmax(-1) @ v


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (apart, "what is done to them is not a sum"),
        (multiplied, "they are multiplied"),
        (per_row, "multiplied by different factors"),
    ],
)
def test_what_is_no_sum_says_so(fn, reason):
    page = attnc.compile(fn, backend="cpu", fallback="silent").lower(*inputs(fn, 8, 8)).explain()
    assert not page.fused
    assert any("2 inner products" in op.reason and reason in op.reason for op in page.eager_ops)
