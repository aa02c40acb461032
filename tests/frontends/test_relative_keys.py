"""Keys with a part that depends on the query: PyTorch multiplies with each row once, and the kernel looks that up."""

from __future__ import annotations

import math
import re

import pytest
import torch

import attnc

from ..numerics import assert_gradients_match, assert_matches, gradients

B, H, D, CLIP = 2, 3, 5, 3


def distances(q, k):
    return torch.arange(k.shape[-2])[None, :] - torch.arange(q.shape[-2])[:, None]


def finished(scores, v):
    return (scores * D**-0.5).softmax(-1) @ v


def shaw(q, k, v, table):
    rows = table[distances(q, k).clamp(-CLIP, CLIP) + CLIP]
    return finished(q @ k.mT + torch.einsum("bhid,ijd->bhij", q, rows), v)


def added_to_keys(q, k, v, table):
    rows = table[distances(q, k).clamp(-CLIP, CLIP) + CLIP]
    return finished(torch.einsum("bhid,bhijd->bhij", q, k[:, :, None] + rows), v)


def by_matmul(q, k, v, table):
    """Queries for rows of a batch, as in Tensor2Tensor."""
    rows = table[distances(q, k).clamp(-CLIP, CLIP) + CLIP]
    b, h, n, d = q.shape
    turned = q.permute(2, 0, 1, 3).reshape(n, b * h, d)
    position = (turned @ rows.mT).view(n, b, h, -1).permute(1, 2, 0, 3)
    return finished(q @ k.mT + position, v)


def summed(q, k, v, table):
    rows = table[distances(q, k).clamp(-CLIP, CLIP) + CLIP]
    return finished(q @ k.mT + (q[:, :, :, None] * rows).sum(-1), v)


def gathered(q, k, v, table):
    at = (distances(q, k).clamp(-CLIP, CLIP) + CLIP).expand(B, H, -1, -1)
    return finished(q @ k.mT + (q @ table.mT).gather(-1, at), v)


def causal_rows_of_heads(q, k, v, of_queries, of_keys):
    """A table for each head, of queries and of keys; the keys' rows are scaled, and a mask hides what comes later."""
    distance = distances(q, k)
    at = distance.clamp(-CLIP, CLIP) + CLIP
    scores = q @ k.mT + torch.einsum("bhid,hijd->bhij", q, of_queries[:, at])
    scores = scores - 0.5 * torch.einsum("bhjd,hijd->bhij", k, of_keys[:, at])
    return finished(scores.masked_fill(distance > 0, float("-inf")), v)


def inputs(fn, n, m):
    torch.manual_seed(0)
    tables = 2 if fn is causal_rows_of_heads else 1
    shape = (H, 2 * CLIP + 1, D) if fn is causal_rows_of_heads else (2 * CLIP + 1, D)
    q, k, v = torch.randn(B, H, n, D), torch.randn(B, H, m, D), torch.randn(B, H, m, 7)
    return [q, k, v, *torch.randn(tables, *shape)]


def check(fn, backend, args):
    compiled = attnc.compile(fn, backend=backend, fallback="error")
    assert_matches(fn, compiled(*args), args)
    (found,) = gradients(compiled, args)
    assert_gradients_match(fn, found, args)


@pytest.mark.parametrize("size", [(1, 1), (23, 23), (3, 71), (67, 9), (5, 0)], ids=str)
@pytest.mark.parametrize("fn", [shaw, causal_rows_of_heads])
def test_numbers(fn, size):
    check(fn, "cpu", inputs(fn, *size))


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_other_backends(backend):
    check(causal_rows_of_heads, backend, inputs(causal_rows_of_heads, 5, 7))


@pytest.mark.parametrize("fn", [added_to_keys, by_matmul, summed, gathered])
def test_spellings_are_one_kernel(fn):
    def kernel(of):
        low = attnc.compile(of, backend="reference", fallback="error").lower(*inputs(of, 9, 9))
        score = low.ir("attn").split("score")[1].splitlines()[0]
        return score.replace("products", "table").replace("matmul", "table"), attnc.validate(of, *inputs(of, 9, 9)).ok

    assert kernel(fn) == kernel(shaw)


def test_products_take_memory_for_each_token_and_row():
    args = inputs(shaw, 64, 64)
    page = attnc.compile(shaw, backend="reference").lower(*args).explain()
    assert page.fused
    (products,) = [op for op in page.eager_ops if "row of a table" in op.reason]
    assert products.bytes == 4 * B * H * 64 * (2 * CLIP + 1)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (40, 40)], ids=str)
def test_no_size_makes_it_eager(size):
    """Fewer tokens than rows: one plan for every size."""
    low = attnc.compile(shaw, backend="reference", fallback="error").lower(*inputs(shaw, *size))
    assert low.explain().fused


@pytest.mark.parametrize(("backend", "kernels"), [("cpu", ["products", "key0"]), ("triton", ["query", "key0"])])
def test_products_of_keys_ride_along(backend, kernels):
    """Each element of their gradient belongs to one key, so that its kernel adds it up; that of queries, likewise."""
    args = [x.requires_grad_() for x in inputs(causal_rows_of_heads, 40, 40)]
    low = attnc.compile(causal_rows_of_heads, backend=backend).lower(*args).backward()
    found = re.findall(r"tile.kernel @causal_rows_of_heads_(\w+)", low.ir("tile"))
    assert sorted(found) == sorted(["delta", *kernels])
    if backend == "triton":  # column after column, and not address after address
        assert "_column in range(" in low.ir("triton")
        assert "while " not in low.ir("triton")


def decomposed(*size):
    """Rows and columns of an image apart, as in MViTv2 and SAM."""

    def attention(q, k, v, of_rows, of_columns):
        (height, width), (b, n, d) = size, q.shape
        image = q.view(b, height, width, d)
        above, beside = (torch.arange(s)[:, None] - torch.arange(s)[None, :] + s - 1 for s in size)
        rows = torch.einsum("bhwc,hkc->bhwk", image, of_rows[above])
        columns = torch.einsum("bhwc,wkc->bhwk", image, of_columns[beside])
        scores = (q * d**-0.5) @ k.mT
        scores = scores.view(b, height, width, height, width) + rows[..., :, None] + columns[..., None, :]
        return scores.view(b, n, n).softmax(-1) @ v

    return attention


@pytest.mark.parametrize(
    ("backend", "size"), [("cpu", (2, 7)), ("cpu", (11, 13)), ("triton", (3, 2)), ("reference", (5, 3))]
)
def test_rows_and_columns_of_an_image(backend, size):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, size[0] * size[1], D)
    check(decomposed(*size), backend, [q, k, v, *(torch.randn(2 * s - 1, D) for s in size)])


def log_buckets(distance, count, most):
    mid = count // 2
    near = torch.where(distance.abs() < mid, mid - 1, distance.abs()).float()
    far = torch.ceil(torch.log(near / mid) / math.log((most - 1) / mid) * (mid - 1)) + mid
    return torch.where(near <= mid, distance, far * torch.sign(distance)).long()


def deberta_v2(q, k, v, of_queries, of_keys):
    at = (log_buckets(distances(k, q).mT, 8, 64) + 8).clamp(0, 15).expand(B, H, -1, -1)
    seen = (q @ of_queries.mT).gather(-1, at)
    asked = (k @ of_keys.mT).gather(-1, at.mT).mT
    return finished(q @ k.mT + seen + asked, v)


def embedded_buckets(q, k, v, table):
    at = (log_buckets(distances(q, k), 8, 64) + 8).clamp(0, 15)
    return finished(q @ k.mT + torch.einsum("bhid,ijd->bhij", q, table[at]), v)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("fn", [deberta_v2, embedded_buckets])
def test_costly_functions_of_the_distance(fn, backend):
    """One row for each bucket is multiplied, not one for each distance."""
    torch.manual_seed(0)
    tables = [torch.randn(16, D)] if fn is embedded_buckets else list(torch.randn(2, H, 16, D))
    args = [*torch.randn(3, B, H, 37, D), *tables]
    check(fn, backend, args)
    low = attnc.compile(fn, backend=backend).lower(*args)
    assert "places.int[" in low.ir("attn")
    assert "index_select" not in low.ir("attn")


def shifted(q, k, v, table):
    """Transformer-XL's shift, without the mask of what it brings from the query before."""
    b, h, n, _ = q.shape
    position = torch.nn.functional.pad(q @ table.mT, (1, 0)).view(b, h, n + 1, n)[:, :, 1:].reshape(b, h, n, n)
    return finished(q @ k.mT + position, v)


def other_heads(q, k, v, table):
    rows = table[:, distances(q, k).clamp(-CLIP, CLIP) + CLIP].repeat_interleave(3, 0)
    return finished(q @ k.mT + torch.einsum("bhid,hijd->bhij", q, rows), v)


@pytest.mark.parametrize(
    ("fn", "rows", "reason"),
    [
        (shifted, (12, D), "if this is a relative shift"),
        (other_heads, (1, 7, D), "unlike the other operand"),
    ],
)
def test_what_is_not_fused_says_so(fn, rows, reason):
    torch.manual_seed(0)
    args = [*torch.randn(3, B, H, 12, D), torch.randn(rows)]
    page = attnc.compile(fn, backend="reference", fallback="silent").lower(*args).explain()
    assert not page.fused
    assert any(reason in op.reason for op in page.eager_ops), {op.reason for op in page.eager_ops}
