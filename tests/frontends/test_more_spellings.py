"""Spellings of published systems that the matcher once read wrongly, or left to PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import attnc
from attnc.ir.attn import AttendOp

N, D = 22, 4


def windowed_projection(x: Tensor, w_qkv: Tensor, w_out: Tensor) -> Tensor:
    """The sizes of ``x`` are called x_0, x_1, x_2; a matrix follows the attention."""
    q, k, v = (x @ w_qkv).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril().triu(-3)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2) @ w_out


def normalised_in_turns(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Sinkhorn's iteration: the sum that the last round divides by is over scores that hold the others."""
    s = q @ k.mT
    for _ in range(5):
        s = s - s.logsumexp(-2, keepdim=True)
        s = s - s.logsumexp(-1, keepdim=True)
    return s.exp() @ v


def layout_of_blocks(q: Tensor, k: Tensor, v: Tensor, drawn: Tensor) -> Tensor:
    """A layout written by index: it grows like queries x keys and is smaller by a constant."""
    u = torch.arange(q.shape[-2] // 2)
    layout = (u[:, None] == u[None, :]).scatter(1, drawn, True)
    mask = layout.repeat_interleave(2, 0).repeat_interleave(2, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def diagonal_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.zeros(q.shape[-2], k.shape[-2], dtype=torch.bool)
    mask[:, ::4] = True
    mask.fill_diagonal_(True)
    return (q @ k.mT).masked_fill(~mask, -torch.inf).softmax(-1) @ v


def similarity(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (F.cosine_similarity(q[..., :, None, :], k[..., None, :, :], dim=-1) * 10).softmax(-1) @ v


def coordinates(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Reductions of a few coordinates and conditions, which make a mask."""
    i = torch.arange(q.shape[-2])
    at = torch.stack([i // 5, i % 5], -1)
    apart = (at[:, None] - at[None]).abs()
    near = (apart.amax(-1) <= 1) & (apart.max(-1).values >= 0) & (apart.float().pow(2).sum(-1).sqrt() < 2.5)
    mask = torch.stack([near, (i[:, None] - i) == 7, (i < 2).expand_as(near)]).any(0)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def listed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Tokens and distances from a list."""
    i = torch.arange(q.shape[-2])
    special = (i[:, None] == torch.tensor([0, 5, 17])).any(-1)
    far = torch.isin((i[:, None] - i).abs(), torch.tensor([0, 1, 2, 4, 8, 16]))
    mask = (far | special[:, None] | special) & ~torch.isin(i[:, None] - i, torch.tensor([3]))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def global_tokens(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Tokens that see all and are seen by all, as BigBird and Longformer write them."""
    i = torch.arange(q.shape[-2])
    mask = (i[:, None] - i).abs() <= 2
    mask[:, [0, -3, q.shape[-2] // 2]] = True
    mask[torch.tensor([0, 5])] = True
    mask.index_fill_(1, torch.tensor([7]), True)
    s = (q @ k.mT).masked_fill(~mask, -torch.inf)
    s[..., [9]] = 0.5
    return s.softmax(-1) @ v


def many_tokens(q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    """Tokens that are many, or come from outside."""
    bias = torch.full((q.shape[-2], k.shape[-2]), -torch.inf, dtype=q.dtype)
    bias[:, tokens] = 0.0
    seen = torch.zeros(k.shape[-2], dtype=torch.bool)
    seen[tokens + 1] = seen[[4, 4]] = True
    bias[torch.arange(3), :] = 0.0
    bias[range(2, 20)] = 0.25
    bias[:, 3:] = bias[:, 3:].masked_fill(seen[3:], 1.0)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def classes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    of = F.one_hot(torch.arange(q.shape[-2]) // 6, 4).bool()
    special = F.one_hot(torch.tensor([0, 5]), num_classes=k.shape[-2]).sum(0) > 0
    return F.scaled_dot_product_attention(q, k, v, attn_mask=(of[:, None] & of).any(-1) | special)


def cases() -> dict[Callable[..., Tensor], tuple[Tensor, ...]]:
    random = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    qkv = tensor(2, N, D), tensor(2, N, D), tensor(2, N, D)
    drawn = torch.randint(N // 2, (N // 2, 2), generator=random)
    return {
        windowed_projection: (tensor(2, N, 8), tensor(8, 24), tensor(8, 8)),
        normalised_in_turns: qkv,
        layout_of_blocks: (*qkv, drawn),
        diagonal_in_place: qkv,
        similarity: qkv,
        coordinates: qkv,
        listed: qkv,
        global_tokens: qkv,
        many_tokens: (*qkv, torch.tensor([3, 11, -1])),
        classes: qkv,
    }


@pytest.mark.parametrize("fn", cases(), ids=lambda f: f.__name__)
def test_fused_and_right(fn: Callable[..., Any]) -> None:
    args = cases()[fn]
    f = attnc.compile(fn, backend="reference", fallback="error")
    torch.testing.assert_close(f(*args), fn(*args), rtol=1e-9, atol=1e-9)
    lowered = f.lower(*args)
    assert any(isinstance(op, AttendOp) for op in lowered.module("attn").walk())
    assert lowered.explain().fused
    assert attnc.validate(f, *args).ok


def test_a_few_tokens_are_compared_with_positions() -> None:
    """So that the mask is known without a table."""
    module = attnc.compile(global_tokens).lower(*cases()[global_tokens]).module("attn")
    (attend,) = (op for op in module.walk() if isinstance(op, AttendOp))
    assert not attend.captures


def test_a_long_list_leaves_nothing_behind() -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        special = torch.isin(torch.arange(k.shape[-2]), torch.arange(0, 40, 2))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=special)

    graph = attnc.compile(fn).lower(*cases()[listed]).ir("capture")
    assert "= isin(" in graph
    assert "= eq(" not in graph


def test_rows_written_by_a_list() -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        v = v.clone()
        v[:, [2, 3]] = k[:, [0, -1]]
        return F.scaled_dot_product_attention(q, k, v)

    q, k, v = cases()[listed]
    torch.testing.assert_close(attnc.compile(fn, backend="reference")(q, k, v), fn(q, k, v))


def masked_at(*tokens: int) -> Callable[..., Tensor]:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.zeros(q.shape[-2], k.shape[-2], dtype=torch.bool)
        mask[:, [*tokens]] = True
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return fn


def hot(tokens: Tensor, *classes: int) -> Callable[..., Tensor]:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=F.one_hot(tokens, *classes).sum(0) > 0)


@pytest.mark.parametrize(
    ("fn", "error", "message"),
    [
        (masked_at(0, N), attnc.ShapeError, "index 22 is outside dimension 1 of size"),
        (masked_at(-N - 1), attnc.ShapeError, "index -23 is outside dimension 1 of size"),
        (hot(torch.arange(N)), attnc.DataDependentError, "one_hot without num_classes .* pass num_classes"),
        (hot(torch.arange(N).int(), N), attnc.DtypeError, "one_hot takes int64, not .* int32"),
    ],
)
def test_what_is_refused(fn: Callable[..., Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attnc.compile(fn, backend="reference")(*cases()[listed])
