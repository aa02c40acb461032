"""Few query rows, many keys: decoding, groups of heads, parts of keys, many small groups."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

import attnc
from tests.numerics import assert_matches

INF = float("inf")


def grouped(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def one_key_head(q, k, v):
    """All query heads share one head of keys."""
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def newest(q, k, v):
    """Each query sees the keys up to its own, aligned at the end, and at most 20 of them."""
    n, m = q.shape[-2], k.shape[-2]
    i = torch.arange(n)[:, None] + m - n
    j = torch.arange(m)[None, :]
    return (q @ k.mT).masked_fill((j > i) | (i - j >= 20), -INF).softmax(-1) @ v


def oldest(q, k, v):
    """Only the first three keys, so that most parts have nothing to see; odd rows see nothing at all."""
    i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
    scores = (q @ k.mT).masked_fill((j >= 3) | (i % 2 == 1), -INF)
    return scores.softmax(-1).nan_to_num() @ v


def sloped(q, k, v, slopes):
    """A bias that differs from head to head, so from row to row of a tile."""
    m = k.shape[-2]
    g = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(g, 1), v.repeat_interleave(g, 1)
    bias = slopes[:, None, None] * (torch.arange(m) - m + 1)
    return (q @ k.mT + bias).softmax(-1) @ v


def tensors(n, m, heads, key_heads, d, e, dtype=torch.float32, batch=2):
    torch.manual_seed(n * m + d)
    shapes = (batch, heads, n, d), (batch, key_heads, m, d), (batch, key_heads, m, e)
    return [torch.randn(s, dtype=torch.float64).to(dtype) for s in shapes]


def check(fn, inputs, **options):
    compiled = attnc.compile(fn, fallback="error", options=options or None)
    assert_matches(fn, compiled(*inputs), inputs)
    return compiled


@pytest.mark.parametrize("keys", [1, 15, 31, 33, 64, 97, 300])
def test_parts_of_every_length(keys):
    for rows in (1, 3):
        check(grouped, tensors(rows, keys, 4, 2, 16, 16), part=16)
        check(oldest, tensors(rows, keys, 2, 2, 8, 8), part=16)
        check(newest, tensors(rows, max(keys, rows), 2, 2, 8, 8), part=16)


def test_rows_of_nothing_but_fills_are_means_over_all_keys():
    """Parts of 16 and of 8 keys, whose log-sum-exps are alike to the last digit."""

    def filled(q, k, v):
        i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None, :]
        return (q @ k.mT).masked_fill((i % 2 == 0) & (j >= 0), -1e9).softmax(-1) @ v

    check(filled, tensors(1, 40, 2, 2, 8, 8), part=16)


@pytest.mark.parametrize(("d", "e"), [(1, 1), (5, 6), (6, 5), (17, 33), (80, 80), (128, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_widths_and_dtypes(d, e, dtype):
    check(grouped, tensors(1, 50, 6, 2, d, e, dtype), part=16)


@pytest.mark.parametrize(("heads", "key_heads"), [(1, 1), (2, 1), (3, 1), (8, 2), (12, 1), (5, 5), (34, 2)])
def test_groups_of_heads(heads, key_heads):
    for rows in (1, 2, 5, 8, 9):
        check(grouped, tensors(rows, 40, heads, key_heads, 8, 8), part=16)


def test_captured_tensors_differ_from_row_to_row():
    slopes = torch.tensor([0.1, 0.2, 0.4, 0.8, 0.05, 0.3])
    check(sloped, [*tensors(1, 77, 6, 2, 8, 8), slopes], part=16)


def test_one_head_of_keys_for_all():
    check(one_key_head, tensors(1, 77, 7, 1, 8, 8), part=16)


def test_strides():
    q, k, v = tensors(1, 50, 4, 2, 12, 12)
    heads_last = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    features_first = [x.mT.contiguous().mT for x in (q, k, v)]
    spaced = [torch.stack([x, x], -1)[..., 0] for x in (q, k, v)]
    for inputs in (heads_last, features_first, spaced, [x.bfloat16() for x in features_first]):
        check(grouped, inputs, part=16)


def lowered(fn, inputs, **options):
    return attnc.compile(fn, options=options or None).lower(*inputs)


def test_keys_are_read_once_for_a_group_of_heads():
    text = lowered(grouped, tensors(1, 40, 8, 2, 16, 16)).ir("tile")
    assert "g:4, d:16" in text


def test_parts_and_their_sum_are_two_launches():
    text = lowered(grouped, tensors(1, 33, 4, 4, 8, 8), part=16).ir("tile")
    assert text.count("tile.launch") == 2


def test_few_queries_get_plans_of_their_own_and_lengths_do_not():
    compiled = attnc.compile(grouped)
    sizes = [(1, 5), (1, 5000), (2, 40), (8, 40), (33, 7), (200, 40)]
    texts = [compiled.lower(*tensors(n, m, 2, 2, 8, 8)).ir("tile") for n, m in sizes]
    guards = [text[text.index("guards") : text.index("\n", text.index("guards"))] for text in texts]
    assert [a == b for a, b in pairwise(guards)] == [True, False, True, False, True]
    assert ["i:16," in text for text in texts] == [False, False, True, True, False, False]
    for n, m in sizes:
        inputs = tensors(n, m, 2, 2, 8, 8)
        assert_matches(grouped, compiled(*inputs), inputs)


@pytest.mark.parametrize("size", [1, 3, 16, 17, 49])
@pytest.mark.parametrize("width", [1, 5, 6])
def test_many_small_groups(size, width):
    """More groups than tasks that are taken one at a time."""
    inputs = tensors(size, size, 3, 3, width, width, batch=701)
    check(one_key_head, inputs)


def test_gradients_with_parts():
    inputs = [x.requires_grad_() for x in tensors(1, 70, 3, 3, 8, 8)]
    out = attnc.compile(newest, fallback="error", options={"part": 16})(*inputs)
    d_out = torch.randn_like(out)
    found = torch.autograd.grad(out, inputs, d_out)
    expected = torch.autograd.grad(newest(*inputs), inputs, d_out)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("target", ["cpu-avx2", "cpu-neon"])
def test_other_vectors(target):
    text = lowered(grouped, tensors(1, 40, 4, 1, 20, 20)).on(target).ir("mlir")
    assert "vector<16x" not in text


def test_passes_that_ask_for_one_query_are_verified_with_one(caplog):
    check(grouped, tensors(1, 40, 4, 2, 8, 8), verify="each", cache="off")
    assert not caplog.records
