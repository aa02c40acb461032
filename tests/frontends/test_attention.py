"""``attnc.attention``: every named pattern sees what its words say, and is fused."""

from __future__ import annotations

import pytest
import torch

import attnc
from attnc.frontends import attention as module
from attnc.patterns import Block, Causal, Dilated, Every, Everything, Global, Neighborhood, Pooled, Window

from ..numerics import assert_gradients_match, assert_matches, gradients

B, H, N, D = 2, 2, 40, 8


def inputs(rows=N, columns=N, groups=H):
    torch.manual_seed(0)
    return [torch.randn(B, h, n, d) for h, n, d in ((H, rows, D), (groups, columns, D), (groups, columns, D))]


def axis_sees(x, y, size, kernel, step):
    """One axis of a neighbourhood, by counting: the tokens of the residue nearest to ``x``, moved inside."""
    line = list(range(x % step, size, step))
    start = min(max(line.index(x) - kernel // 2, 0), len(line) - kernel)
    return y in line[start : start + kernel]


# pattern, and what it says for one query and one key
CASES = {
    "everything": (Everything(), lambda i, j: True),
    "causal": (Causal(), lambda i, j: j <= i),
    "window": (Window(3), lambda i, j: abs(i - j) <= 3),
    "one side": (Window(5, 0), lambda i, j: 0 <= i - j <= 5),
    "dilated": (Dilated(2, 4), lambda i, j: i - j in (-8, -4, 0, 4, 8)),
    "block": (Block(16), lambda i, j: i // 16 == j // 16),
    "blocks": (Block(8, 1), lambda i, j: 0 <= i // 8 - j // 8 <= 1),
    "every": (Every(8, 2), lambda i, j: j % 8 in (6, 7)),
    "joined": (Causal() & Window(6) | Global(2), lambda i, j: 0 <= i - j <= 6 or i < 2 or j < 2),
    "not": (Causal() & ~Window(3), lambda i, j: i - j > 3),  # rows without a key
    "image": (
        Neighborhood((3, 3), (5, 8)),
        lambda i, j: axis_sees(i // 8, j // 8, 5, 3, 1) and axis_sees(i % 8, j % 8, 8, 3, 1),
    ),
    "dilated image": (
        Neighborhood((2, 3), (5, 8), (2, 2)),
        lambda i, j: axis_sees(i // 8, j // 8, 5, 2, 2) and axis_sees(i % 8, j % 8, 8, 3, 2),
    ),
}


def square(says, rows=N, columns=N):
    return torch.tensor([[says(i, j) for j in range(columns)] for i in range(rows)])


def by_mask(mask):
    def eager(q, k, v):
        return (q @ k.mT / D**0.5).masked_fill(~mask, -torch.inf).softmax(-1) @ v

    return eager


@pytest.mark.parametrize("name", CASES)
def test_patterns(name):
    pattern, says = CASES[name]
    args = inputs()

    def ours(q, k, v):
        return attnc.attention(q, k, v, pattern=pattern, backend="cpu", fallback="error")

    eager = by_mask(square(says))
    assert_matches(eager, ours(*args), args)
    if square(says).any(1).all():  # the gradient of PyTorch's is NaN in rows without a key
        (found,) = gradients(ours, args)
        assert_gradients_match(eager, found, args)


def test_pooled_keys():
    """The past as means: of 4 within the query's own 16, of 16 before."""
    pattern = Causal() & Block(4) + Pooled(4, within=16) + Pooled(16)

    def eager(q, k, v):
        i = torch.arange(N)[:, None]
        keys, values, masks = [k], [v], [square(lambda i, j: j <= i and i // 4 == j // 4)]
        for size, wide in ((4, 16), (16, N + 1)):
            many = N // size
            g = torch.arange(many)
            keys.append(torch.stack([k[:, :, n * size : (n + 1) * size].mean(2) for n in range(many)], 2))
            values.append(torch.stack([v[:, :, n * size : (n + 1) * size].mean(2) for n in range(many)], 2))
            masks.append((g < i // size) & (g * size // wide == i // wide))
        return by_mask(torch.cat(masks, 1))(q, torch.cat(keys, 2), torch.cat(values, 2))

    args = inputs()

    def ours(q, k, v):
        return attnc.attention(q, k, v, pattern=pattern, backend="cpu", fallback="error")

    assert_matches(eager, ours(*args), args)
    (found,) = gradients(ours, args)
    assert_gradients_match(eager, found, args)


def test_decoding_with_shared_heads_and_a_bias():
    """The last queries stand at the last keys; a longer cache is compiled with the same program."""

    def ours(q, k, v, bias, slope):
        return attnc.attention(
            q, k, v, pattern=Causal() & Window(9, 0), bias=bias, score=lambda s, b, h, i, j: s + slope * (j - i),
            scale=0.2, offset="end", return_lse=True, backend="cpu", fallback="error",
        )  # fmt: skip

    counts = []
    for columns in (33, 45):
        args = (*inputs(2, columns, 1), torch.randn(H, 1, columns), torch.rand(()))
        i = torch.arange(2)[:, None] + columns - 2
        mask = square(lambda i, j, columns=columns: 0 <= i + columns - 2 - j <= 9, 2, columns)

        def scores(q, k, bias, slope, i=i, mask=mask, columns=columns):
            return (q @ k.mT * 0.2 + slope * (torch.arange(columns) - i) + bias).masked_fill(~mask, -torch.inf)

        out, lse = ours(*args)
        q, k, v, bias, slope = args
        torch.testing.assert_close(out, scores(q, k, bias, slope).softmax(-1) @ v)
        torch.testing.assert_close(lse, scores(q, k, bias, slope).logsumexp(-1))
        counts.append(sum(map(len, module._COMPILED["cpu", "error"]._table.rows.values())))
    assert counts[0] == counts[1]


def test_patterns_are_values():
    assert attnc.patterns.Causal is Causal
    assert Causal() & Window(4) == Causal() & Window(4)
    assert hash(Causal() | Global(1)) == hash(Causal() | Global(1))
    assert Window(4) != Window(5)
    assert repr(~(Causal() & Block(8))) == "~(Causal() & Block(size=8, before=0, after=0))"


q, k, v = inputs()
MISTAKES = {
    "4 dimensions": lambda: attnc.attention(q[0], k, v),
    "no multiple": lambda: attnc.attention(*inputs(groups=3)),
    "pattern must be": lambda: attnc.attention(q, k, v, pattern=torch.ones(N, N)),
    "pooled keys": lambda: attnc.attention(q, k, v, pattern=Causal() + Pooled(4), bias=torch.zeros(N)),
    "offset must be": lambda: attnc.attention(q, k, v, offset="start"),
    "at least 0": lambda: Window(-1),
    "at least 1": lambda: Block(0),
    "as many axes": lambda: Neighborhood((3,), (4, 4)),
    "does not fit": lambda: Neighborhood((3, 3), (4, 4), 2),
    "multiple of size": lambda: Pooled(3, within=8),
    "adds pooled keys": lambda: Causal() & (lambda b, h, i, j: i > j),
    "only Pooled": lambda: Causal() + Pooled(2) + Window(2),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(words):
    with pytest.raises(attnc.AttncError, match=words):
        MISTAKES[words]()
