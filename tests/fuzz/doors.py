"""Programs that call ``attnc.flex_attention`` or ``attnc.attention``, and what they mean in plain PyTorch.

Masks and scores are functions of positions here, so only spellings that hold for one position as for all are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from .masks import SMALL, block, blocks_before, bottom_right, by_head, columns, grid, near, phase, slanted, strided
from .parts import Part, Tensor

SCORES = st.sampled_from(
    [
        Part("s"),
        Part("s"),
        Part("5 * torch.tanh(s / 5)"),
        Part("s - 0.1 * (i - j).abs()"),
        Part("s - slopes[h] * (i - j).abs()", (Tensor("slopes", "(heads,)", "positive"),)),
        Part("s + table[h, (i - j).clamp(-8, 8) + 8]", (Tensor("table", "(heads, 17)", "normal"),)),
        Part("torch.where(i >= j, s, s * 0.5)"),
        Part("s * torch.sigmoid(gates[h, j % 5])", (Tensor("gates", "(heads, 5)", "normal"),)),
    ]
)
MASKS = st.one_of(near, bottom_right, strided, phase, columns, block, blocks_before, grid, slanted, by_head).filter(
    lambda part: "torch.ones" not in part.text and "m - n" not in part.text
)


@dataclass(frozen=True)
class Door:
    """The same function twice: lines that call attnc, and lines of plain PyTorch."""

    ours: tuple[str, ...]
    eager: tuple[str, ...]
    tensors: tuple[Tensor, ...]


def _eager(score: str, mask: str, bias: str, scale: str, shift: str) -> tuple[str, ...]:
    return (
        "k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))",
        f"i, j = torch.arange(n)[:, None] + {shift}, torch.arange(m)[None, :]",
        f"s = q @ k.mT * ({scale})",
        f"s = ({score}).to(s.dtype){bias}",
        f"keep_ = {mask}",
        "o = s.masked_fill(~keep_, float('-inf')).softmax(-1) @ v",
    )


@st.composite
def flex(draw: st.DrawFn) -> Door:
    score: Part = draw(SCORES)
    mask: Part = draw(MASKS)
    joined = draw(st.sampled_from(["({a})", "({a}) & (j <= i)", "({a}) | (j < 2)", "~({a})"])).format(a=mask.text)
    scale = draw(st.sampled_from(["d**-0.5", "0.2"]))
    given = "" if scale != "0.2" else ", scale=0.2"
    ours = (
        f"block_mask = attnc.create_block_mask(lambda b, h, i, j: {joined}, None, None, n, m)",
        f"o = attnc.flex_attention(q, k, v, lambda s, b, h, i, j: {score.text}, block_mask{given},"
        " enable_gqa=True, backend=backend, fallback='error')",
    )
    return Door(ours, _eager(score.text, joined, "", scale, "0"), score.tensors)


@st.composite
def named(draw: st.DrawFn) -> tuple[str, str]:
    """A named pattern, and its mask."""
    a, c, size = draw(SMALL), draw(st.integers(1, 6)), draw(st.sampled_from([1, 3, 8, 17, 64]))
    return draw(
        st.sampled_from(
            [
                ("Everything()", "(i == i) & (j == j)"),
                ("Causal()", "j <= i"),
                (f"Window({a})", f"(i - j).abs() <= {a}"),
                (f"Window({a}, 0)", f"(j <= i) & (j >= i - {a})"),
                (f"Dilated({a}, {c})", f"((i - j).abs() <= {a * c}) & ((i - j) % {c} == 0)"),
                (f"Global({c})", f"(i < {c}) | (j < {c})"),
                (f"Block({size})", f"i // {size} == j // {size}"),
                (f"Block({size}, 1, {c})", f"(j // {size} >= i // {size} - 1) & (j // {size} <= i // {size} + {c})"),
                (f"Every({size + a}, {c})", f"j % {size + a} >= {size + a - c}"),
            ]
        )
    )


@st.composite
def by_pattern(draw: st.DrawFn) -> Door:
    (a, says_a), (b, says_b), score = draw(named()), draw(named()), draw(SCORES)
    how, says = draw(
        st.sampled_from(
            [("{a}", "({a})"), ("{a} & {b}", "({a}) & ({b})"), ("{a} | {b}", "({a}) | ({b})"),
             ("{a} & ~{b}", "({a}) & ~({b})")]
        )
    )  # fmt: skip
    offset, shift = draw(st.sampled_from([("0", "0"), ("3", "3"), ("'end'", "m - n")]))
    bias = draw(st.sampled_from(["", "", "bias"]))
    tensors = (*score.tensors, *([Tensor("bias", "(heads, 1, m)", "normal")] if bias else []))
    ours = (
        "from attnc.patterns import Block, Causal, Dilated, Every, Everything, Global, Window",
        f"o = attnc.attention(q, k, v, pattern={how.format(a=a, b=b)}, score=lambda s, b, h, i, j: {score.text},"
        f" bias={bias or None}, offset={offset}, backend=backend, fallback='error')",
    )
    eager = _eager(score.text, says.format(a=says_a, b=says_b), f" + {bias}" if bias else "", "d**-0.5", shift)
    return Door(ours, eager, tensors)


doors = st.one_of(flex(), by_pattern())
