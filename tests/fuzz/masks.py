"""Random masks over query ``i`` and key ``j``, each meaning in one of several spellings."""

from __future__ import annotations

from hypothesis import strategies as st

from .parts import Part, Tensor

SMALL = st.integers(0, 9)
PERIODS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 16])
BLOCKS = st.sampled_from([1, 2, 3, 5, 8, 16, 17, 32, 64])


def _spelled(*templates: str, **numbers: st.SearchStrategy[int]) -> st.SearchStrategy[Part]:
    """One of the templates, which all mean the same, with drawn numbers."""
    return st.builds(
        lambda text, drawn: Part(text.format(**drawn)), st.sampled_from(templates), st.fixed_dictionaries(numbers)
    )


near = _spelled(
    "(i - j).abs() <= {r}",
    "torch.abs(j - i) <= {r}",
    "~((i - j).abs() > {r})",
    "((i - j) <= {r}) & ((j - i) <= {r})",
    "(j >= i - {r}) & (j <= i + {r})",
    "torch.ones(n, m, dtype=torch.bool).tril({r}).triu(-{r})",
    "abs(i - j).le({r})",
    r=st.integers(0, 40),
)
causal = _spelled(
    "j <= i + {o}",
    "i - j >= -({o})",
    "~(j > i + {o})",
    "torch.ones(n, m, dtype=torch.bool).tril({o})",
    "torch.tril(torch.ones((n, m)), diagonal={o}) == 1",
    "torch.triu(torch.ones(n, m), {o} + 1).logical_not()",
    "torch.ge(i + {o}, j)",
    o=st.integers(-9, 20),
)
bottom_right = _spelled("j - m <= i - n", "i >= j - (m - n)", "j <= i + (m - n)")
strided = _spelled(
    "(i - j) % {p} == 0",
    "i % {p} == j % {p}",
    "torch.remainder(j - i, {p}) == 0",
    "((i - j) % {p}).eq(0)",
    p=PERIODS,
)
phase = _spelled(
    "(i + j) % {p} == {r}",
    "(j + 3 * i) % {p} == {r} % {p}",
    "(i * 100000007 + j * 7919) % {p} <= {r} % {p}",
    p=PERIODS,
    r=SMALL,
)
columns = _spelled("j % {p} < {r}", "(j % {p}).lt({r})", "j.remainder({p}) < {r}", p=PERIODS, r=SMALL)
block = _spelled(
    "i // {b} == j // {b}",
    "torch.div(i, {b}, rounding_mode='floor') == torch.div(j, {b}, rounding_mode='floor')",
    "(i // {b} - j // {b}) == 0",
    "i.floor_divide({b}).eq(j // {b})",
    b=BLOCKS,
)
blocks_before = _spelled("j // {b} <= i // {b}", "j // {b} < i // {b}", "(i // {b} - j // {b}).abs() <= 1", b=BLOCKS)
globals_ = _spelled("j < {c}", "(i < {c}) | (j < {c})", "(j < {c}) | (j >= m - {c})", "i >= {c}", c=SMALL)
grid = _spelled(
    "((i // {w} - j // {w}).abs() <= {r}) & ((i % {w} - j % {w}).abs() <= {r})",
    "torch.maximum((i // {w} - j // {w}).abs(), (i % {w} - j % {w}).abs()) <= {r}",
    "((i // {w} - j // {w}).abs() + (i % {w} - j % {w}).abs()) <= {r}",
    w=st.sampled_from([3, 4, 6, 8]),
    r=st.integers(0, 3),
)
clamped = _spelled(  # the window moves inwards at the borders and keeps its length
    "(j >= (i - {r}).clamp(min=0, max=max(m - 2 * {r} - 1, 0)))"
    " & (j <= (i - {r}).clamp(min=0, max=max(m - 2 * {r} - 1, 0)) + 2 * {r})",
    "(j - i.clamp({r}, max(m - 1 - {r}, {r}))).abs() <= {r}",
    r=st.integers(0, 9),
)
slanted = _spelled("2 * i >= 3 * j - {c}", "i // 2 >= j // 3", "j <= 2 * i + {c}", "i * 3 // 4 >= j - {c}", c=SMALL)
by_head = _spelled(
    "(i - j).abs() <= 3 * (h + 1)",
    "(i - j) % (h + 1) == 0",
    "(h % 2 == 0) | (j <= i)",
    "torch.where(h < 1, j <= i, (i - j).abs() < 7)",
    "(i - j).abs() <= 2 ** h",
)
constant = _spelled("(i >= 0) & (j >= 0)", "(i < 0) | (j < 0)")

KEEP = Tensor("keep", "(b, m)", "bool")
IDS = (Tensor("q_ids", "(b, n)", "ids"), Tensor("k_ids", "(b, m)", "ids"))
LENGTHS = Tensor("lengths", "(b,)", "lengths")
REACH = Tensor("reach", "(heads,)", "small")
captured = st.sampled_from(
    [
        Part("keep[:, None, None, :]", (KEEP,)),
        Part("keep.view(b, 1, 1, m)", (KEEP,)),
        Part("q_ids[:, None, :, None] == k_ids[:, None, None, :]", IDS),
        Part("j < lengths[:, None, None, None]", (LENGTHS,)),
        Part("(i - j).abs() <= reach[:, None, None]", (REACH,)),
        Part("(i - j).abs() <= reach.view(-1, 1, 1)", (REACH,)),
    ]
)

leaves = st.one_of(
    near, causal, bottom_right, strided, phase, columns, block, blocks_before, globals_, grid, clamped, slanted,
    by_head, captured, constant,
)  # fmt: skip


def _join(spelling: str, a: Part, b: Part) -> Part:
    return Part(spelling.format(a=a.text, b=b.text), (*a.tensors, *b.tensors))


def _combined(inner: st.SearchStrategy[Part]) -> st.SearchStrategy[Part]:
    both = ["({a}) & ({b})", "({a}) & ({b})", "torch.logical_and({a}, {b})", "~(~({a}) | ~({b}))"]
    either = ["({a}) | ({b})", "torch.logical_or({a}, {b})", "({a}).logical_or({b})"]
    other = ["({a}) ^ ({b})", "({a}) & ~({b})", "torch.where({a}, {b}, j <= i)", "({a}) != ({b})"]
    return st.builds(_join, st.sampled_from([*both, *both, *either, *other]), inner, inner)


masks = st.recursive(leaves, _combined, max_leaves=4)
