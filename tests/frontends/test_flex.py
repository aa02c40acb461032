"""FlexAttention's signatures give FlexAttention's numbers, and functions made anew are not compiled anew."""

from __future__ import annotations

import types

import pytest
import torch
from torch.nn.attention.flex_attention import AuxRequest, and_masks, noop_mask, or_masks
from torch.nn.attention.flex_attention import create_block_mask as torch_block_mask
from torch.nn.attention.flex_attention import flex_attention as torch_flex

import attnc
from attnc.frontends import attention

from ..numerics import assert_gradients_match, assert_matches, gradients

B, H, N, M, D = 2, 4, 37, 45, 16
SLOPES = torch.arange(1, H + 1) / H
WIDTH = 5
config = types.SimpleNamespace(width=9)


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def near(b, h, q_idx, kv_idx):
    return (q_idx - kv_idx).abs() <= WIDTH


def alibi(score, b, h, q_idx, kv_idx):
    return score + SLOPES[h] * (kv_idx - q_idx)


def soft_cap(score, b, h, q_idx, kv_idx):
    return 20 * torch.tanh(score / 20)


def same_document(document):
    return lambda b, h, i, j: document[b, i] == document[b, j]


DOCUMENT = torch.arange(2 * 64).view(2, 64) // 11 % 3
CASES = {
    "plain": (None, None),
    "causal": (None, causal),
    "joined": (alibi, and_masks(causal, near)),
    "either": (soft_cap, or_masks(near, same_document(DOCUMENT))),
    "everything": (alibi, noop_mask),
    "by score": (lambda score, b, h, i, j: torch.where(i >= j, score, -float("inf")), None),
    "heads": (None, lambda b, h, i, j: (h % 2 == 0) | (i - j == b)),  # rows without a key
}


def inputs(heads: int = H) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(B, h, n, d) for h, n, d in ((H, N, D), (heads, M, D), (heads, M, 24))]


def ours(*args, **options):
    return attnc.flex_attention(*args, backend="cpu", fallback="error", **options)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", CASES)
def test_numbers(name):
    score, mask = CASES[name]
    q, k, v = inputs()
    block = None if mask is None else attnc.create_block_mask(mask, None, None, N, M, BLOCK_SIZE=64)
    out, aux = ours(q, k, v, score, block, return_aux=AuxRequest(lse=True))
    theirs = None if mask is None else torch_block_mask(mask, B, H, N, M, device="cpu")

    def eager(q, k, v):
        return torch_flex(q, k, v, score, theirs)

    assert_matches(eager, out, (q, k, v))
    lse = torch_flex(q, k, v, score, theirs, return_aux=AuxRequest(lse=True))[1].lse
    torch.testing.assert_close(aux.lse, lse)


def test_gradients_of_what_functions_read():
    """PyTorch's has none on a CPU: the definition is what they are compared with."""
    torch.manual_seed(1)
    table = torch.randn(H, N + M)

    def attend(q, k, v, table, attention=ours):
        return attention(q, k, v, lambda s, b, h, i, j: s + table[h, i - j + M], enable_gqa=True, scale=0.3)

    def eager(q, k, v, table):
        at = torch.arange(N)[:, None] - torch.arange(M)[None, :] + M
        s = q @ k.repeat_interleave(2, 1).mT * 0.3 + table[:, at]
        return s.softmax(-1) @ v.repeat_interleave(2, 1)

    args = (*inputs(2), table)
    (found,) = gradients(attend, args)
    assert_gradients_match(eager, found, args)


def test_functions_made_anew_are_not_compiled_anew():
    args = inputs()

    def call(document, width):
        mask = and_masks(same_document(document), lambda b, h, i, j: (i - j).abs() <= width)
        return ours(*args, None, attnc.create_block_mask(mask, None, None, N, M))

    first = call(DOCUMENT, 3)
    table = attention._COMPILED["cpu", "error"]._table

    def rows() -> int:
        return sum(len(found) for found in table.rows.values())

    before = rows()
    assert not torch.equal(call(DOCUMENT.flip(1), 3), first)  # other values of a tensor
    assert torch.equal(call(DOCUMENT.clone(), 3), first)
    assert rows() == before
    assert not torch.equal(call(DOCUMENT, 9), first)  # another number is another mask
    assert rows() == before + 1


def test_what_functions_read_from_outside_is_watched(monkeypatch):
    args = inputs()

    def call():
        return ours(*args, None, attnc.create_block_mask(and_masks(near, wide), None, None, N, M))

    def wide(b, h, i, j):
        return i - j <= config.width

    def expected(first, second):
        i, j = torch.arange(N)[:, None], torch.arange(M)[None, :]
        keep = ((i - j).abs() <= first) & (i - j <= second)
        return (args[0] @ args[1].mT / 4).masked_fill(~keep, -torch.inf).softmax(-1).nan_to_num(0.0) @ args[2]

    torch.testing.assert_close(call(), expected(5, 9))
    monkeypatch.setitem(globals(), "WIDTH", 7)
    torch.testing.assert_close(call(), expected(7, 9))
    monkeypatch.setattr(config, "width", 2)
    torch.testing.assert_close(call(), expected(7, 2))


def test_inside_torch_compile():
    q, k, v = inputs()
    block = attnc.create_block_mask(causal, None, None, N, M)

    @torch.compile(backend="eager", fullgraph=True)
    def layer(q, k, v):
        return ours(q + 1, k, v, alibi, block) * 2

    torch.testing.assert_close(layer(q, k, v), ours(q + 1, k, v, alibi, block) * 2)


q, k, v = inputs()
few = inputs(2)
MISTAKES = {
    "4 dimensions": lambda: ours(q[0], k, v),
    "attnc.create_block_mask": lambda: ours(q, k, v, None, torch_block_mask(causal, None, None, N, M, device="cpu")),
    "enable_gqa=True": lambda: ours(q, few[1], few[2]),
    "no multiple": lambda: ours(q[:, :3], few[1], few[2], enable_gqa=True),
    "KV_LEN=37": lambda: ours(q, k, v, None, attnc.create_block_mask(causal, None, None, N, N)),
    "max_scores": lambda: ours(q, k, v, return_aux=AuxRequest(max_scores=True)),
    "must be a function": lambda: attnc.create_block_mask(DOCUMENT, None, None, N, N),
    "all pairs at once": lambda: ours(q, k, v, lambda s, b, h, i, j: torch.zeros(N, M)),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(words):
    with pytest.raises(attnc.AttncError, match=words):
        MISTAKES[words]()
