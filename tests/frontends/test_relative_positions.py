"""Positions with a row for every distance: the kernel multiplies them itself, and builds no products of all pairs."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

import attnc

from ..numerics import assert_gradients_match, assert_matches, gradients

B, H, D = 2, 3, 5


def finished(scores, v):
    return (scores * D**-0.5).softmax(-1) @ v


def transformer_xl(q, k, v, r, u, w):
    """Causal with a memory, heads before features; a column is padded by ``cat``."""
    n, m = q.shape[0], k.shape[0]
    position = torch.einsum("ibhd,jhd->bhij", q + w, r)
    position = torch.cat([position.new_zeros(*position.shape[:3], 1), position], -1)
    position = position.view(*position.shape[:2], m + 1, n)[:, :, 1:].reshape(*position.shape[:2], n, m)
    scores = (torch.einsum("ibhd,jbhd->bhij", q + u, k) + position) * D**-0.5
    future = torch.ones(n, m, dtype=torch.bool).triu(1 + m - n)
    weights = torch.softmax(scores.masked_fill(future, float("-inf")), -1)
    return torch.einsum("bhij,jbhd->ibhd", weights, v)


def two_sided(q, k, v, r, u, w):
    """Distances of both signs, as in Conformer: the shifted matrix is cut in half, and positions are projected."""
    n = q.shape[2]
    weight = torch.ones(H * D, H * D, dtype=r.dtype).tril() / D
    r = (r.transpose(0, 1).flatten(1) @ weight).view(-1, H, D).transpose(0, 1)
    position = F.pad((q + w[:, None]) @ r.mT, (1, 0))
    rows = position.shape[-1]
    position = position.view(*position.shape[:2], rows, n)[:, :, 1:].view(*position.shape[:2], n, rows - 1)[..., :n]
    return finished((q + u[:, None]) @ k.mT + position, v)


def music(q, k, v, r, u, w):
    """Music Transformer: the query itself meets the positions, and a fill hides the future."""
    n = q.shape[2]
    position = F.pad(q @ r.mT, (1, 0)).view(*q.shape[:2], n + 1, n)[:, :, 1:]
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    return finished((q @ k.mT + position).masked_fill(~seen, -1e9), v * u[:, None, :1] + w[:, None, :1])


def gathered(q, k, v, r, u, w):
    """A row for each pair, by its distance."""
    n, m = q.shape[2], k.shape[2]
    at = torch.arange(n)[:, None] - torch.arange(m)[None, :] + m - 1
    return finished((q + u[:, None]) @ k.mT + torch.einsum("bhid,hijd->bhij", q + w[:, None], r[:, at]), v)


def clamped(q, k, v, r, u, w):
    """Distances that a mask takes away are clamped; positions are made within the function."""
    n, m = q.shape[2], k.shape[2]
    distance = torch.arange(n)[:, None] - torch.arange(m)[None, :]
    rows = (r * u[:, None]).tanh()[:, distance.clamp(min=0)]
    scores = q @ k.mT - 0.5 * torch.einsum("bhid,hijd->bhij", q * w[:, None], rows)
    return finished(torch.where(distance >= 0, scores, float("-inf")), v)


ROWS = {transformer_xl: lambda n, m: m, two_sided: lambda n, m: 2 * n - 1, music: lambda n, m: n,
        gathered: lambda n, m: n + m - 1, clamped: lambda n, m: n}  # fmt: skip


def inputs(fn, n, m, dtype=torch.float32):
    torch.manual_seed(0)
    table = torch.randn(H, ROWS[fn](n, m), D)
    q, k, v = torch.randn(B, H, n, D), torch.randn(B, H, m, D), torch.randn(B, H, m, 7)
    if fn is transformer_xl:
        q, k, v, table = q.permute(2, 0, 1, 3), k.permute(2, 0, 1, 3), v.permute(2, 0, 1, 3), table.mT.permute(2, 0, 1)
    return [x.to(dtype) for x in (q, k, v, table, *torch.randn(2, H, D))]


def check(fn, backend, args):
    compiled = attnc.compile(fn, backend=backend, fallback="error")
    assert_matches(fn, compiled(*args), args)
    (found,) = gradients(compiled, args)
    assert_gradients_match(fn, found, args)


@pytest.mark.parametrize(
    ("fn", "size"),
    [
        (transformer_xl, (1, 1)),
        (transformer_xl, (67, 131)),
        (two_sided, (65, 65)),
        (music, (31, 31)),
        (gathered, (5, 97)),
        (gathered, (70, 3)),
        (clamped, (41, 23)),
    ],
)
def test_numbers(fn, size):
    check(fn, "cpu", inputs(fn, *size))


@pytest.mark.parametrize(
    ("fn", "backend", "size"),
    [(transformer_xl, "triton", (37, 53)), (transformer_xl, "reference", (37, 53)), (two_sided, "reference", (19, 19))],
)
def test_other_backends(fn, backend, size):
    check(fn, backend, inputs(fn, *size))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype):
    check(two_sided, "cpu", inputs(two_sided, 37, 37, dtype))


@pytest.mark.parametrize("fn", list(ROWS))
def test_no_plan_holds_all_pairs(fn):
    """Memory grows with the rows, forwards and backwards."""
    args = [x.requires_grad_() for x in inputs(fn, 48, 48)]
    low = attnc.compile(fn, backend="reference", fallback="error").lower(*args)
    for page in (low, low.backward()):
        text = page.ir("attn") + page.ir("tile")
        assert "inner(" in text
        assert "tile.band_dot" in text
        for shape in re.findall(r'tensor<"([^"]*)"', text):
            assert sum(x.strip() in ("N", "N_k", "r_0", "r_1", "N_v") for x in shape.split(",")) < 2, shape
    assert low.explain().fused
    assert "tile.band_add" in low.backward().ir("tile")


def test_the_same_bits_with_any_number_of_threads():
    args, threads = inputs(two_sided, 130, 130), torch.get_num_threads()
    compiled = attnc.compile(two_sided, backend="cpu")
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(gradients(compiled, args)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_shift_that_no_mask_hides_says_so():
    """More rows than distances: what a key meets is another query's."""
    args = inputs(two_sided, 12, 12)
    args[3] = torch.randn(H, 30, D)
    page = attnc.compile(two_sided, backend="reference", fallback="silent").lower(*args).explain()
    assert not page.fused
    assert any("if this is a relative shift" in op.reason for op in page.eager_ops), page.eager_ops


def wide(q, k, v, r, u, w):
    n, m = q.shape[2], k.shape[2]
    at = torch.arange(n)[:, None] + torch.arange(m)[None, :]
    return finished(q @ k.mT + torch.einsum("bhid,hijd->bhij", q, r[:, at]), v)


def test_what_is_no_band_says_so():
    torch.manual_seed(0)
    args = [*torch.randn(3, B, H, 12, D), torch.randn(H, 23, D), *torch.randn(2, H, D)]
    page = attnc.compile(wide, backend="reference", fallback="silent").lower(*args).explain()
    assert not page.fused
    assert any("only where the distance i - j says" in op.reason for op in page.eager_ops), page.eager_ops
