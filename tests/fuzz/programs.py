"""Random attention functions, as text that runs by itself."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from .doors import Door, doors
from .masks import masks
from .parts import INPUTS, Part, Tensor
from .scores import MASKED, NORMALISED, SCALED, steps

LENGTHS = st.sampled_from([1, 2, 3, 7, 15, 16, 17, 31, 33, 48, 63, 64, 65, 67, 96, 100, 127, 128, 129, 131, 0])
WIDTHS = st.sampled_from([16, 8, 32, 5, 1, 3, 64, 80])
DTYPES = st.sampled_from(["float32", "float32", "float32", "float64", "bfloat16", "float16"])
LAYOUTS = ("plain", "plain", "plain", "heads last", "every other", "wide rows")
POSITIONS = st.sampled_from(
    [
        ("i = torch.arange(n)[:, None]", "j = torch.arange(m)[None, :]"),
        ("i = torch.arange(n).unsqueeze(-1)", "j = torch.arange(m)"),
        ("i = torch.arange(q.shape[-2]).view(-1, 1)", "j = torch.arange(0, k.size(2)).view(1, -1)"),
        ("i, j = torch.meshgrid(torch.arange(n), torch.arange(m), indexing='ij')",),
        ("i = torch.arange(n).reshape(1, 1, n, 1)", "j = torch.arange(m).reshape(1, 1, 1, m)"),
    ]
)


@dataclass(frozen=True)
class Program:
    """A function of ``q``, ``k``, ``v`` and more tensors, and inputs for it."""

    body: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    sizes: tuple[int, int, int, int, int, int, int]  # batch, heads, key heads, queries, keys, widths of key and value
    dtype: str
    layout: str
    ours: tuple[str, ...] = ()  # a body that calls attnc by itself, and means the same

    @property
    def names(self) -> list[str]:
        return ["q", "k", "v", *(t.name for t in self.tensors)]

    def source(self) -> str:
        """A module: ``attention``, ``example_inputs`` and, run as a script, a comparison with eager."""
        b, heads, kv_heads, n, m, d, e = self.sizes
        made = "".join(f"\n        tensor({t.kind!r}, {t.shape})," for t in self.tensors)
        body = "\n    ".join(self.body)
        shown = "attnc.validate(attnc.compile(attention, fallback='silent'), *inputs)"
        if self.ours:
            shown = "(ours(*inputs) - attention(*inputs)).abs().max()"
        return f"""import math

import torch
import torch.nn.functional as F

import attnc


def attention({", ".join(self.names)}):
    b, heads, n, d = q.shape
    m = k.shape[-2]
    h = torch.arange(heads)[:, None, None]
    {body}
{self._second()}

def example_inputs():
    b, heads, kv_heads, n, m, d, e = {b}, {heads}, {kv_heads}, {n}, {m}, {d}, {e}
    dtype, layout, generator = torch.{self.dtype}, {self.layout!r}, torch.Generator().manual_seed(0)

{INPUTS}
    return (
        tensor("normal", (b, heads, n, d)),
        tensor("normal", (b, kv_heads, m, d)),
        tensor("normal", (b, kv_heads, m, e)),{made}
    )


if __name__ == "__main__":
    inputs = example_inputs()
    print({shown})
"""

    def _second(self) -> str:
        if not self.ours:
            return ""
        body = "\n    ".join(self.ours)
        return f"""

def ours({", ".join(self.names)}, backend="auto"):
    b, heads, n, d = q.shape
    m = k.shape[-2]
    {body}
"""


@st.composite
def _scores(draw: st.DrawFn) -> tuple[list[str], tuple[Tensor, ...]]:
    """Lines that end in ``o``, from ``q``, ``k``, ``v``, ``i``, ``j``."""
    lines, tensors = [draw(SCALED)], []
    for step in draw(steps):
        lines.append(step.text)
        tensors += step.tensors
    if draw(st.integers(0, 7)):
        mask: Part = draw(masks)
        lines += [f"keep_ = {mask.text}", draw(MASKED)]
        tensors += mask.tensors
    # eager's least number plus the logarithm of a sum is the least number: keys of a row without any would weigh 1 each
    normalised = NORMALISED.filter(lambda x: "logsumexp" not in x[0]) if "finfo" in lines[-1] else NORMALISED
    return [*lines, *draw(normalised)], tuple(tensors)


@st.composite
def plain(draw: st.DrawFn) -> tuple[list[str], tuple[Tensor, ...], int]:
    """One attention over all tokens."""
    lines, tensors = draw(_scores())
    return [*draw(POSITIONS), *lines], tensors, 1


@st.composite
def sdpa(draw: st.DrawFn) -> tuple[list[str], tuple[Tensor, ...], int]:
    mask: Part = draw(masks)
    call = draw(
        st.sampled_from(
            [
                "o = F.scaled_dot_product_attention(q, k, v, attn_mask=keep_)",
                "o = F.scaled_dot_product_attention(q, k, v, keep_, scale=0.2)",
                "o = F.scaled_dot_product_attention(q, k, v, torch.where(keep_, 0.0, -torch.inf).to(q.dtype))",
            ]
        )
    )
    return [*draw(POSITIONS), f"keep_ = ({mask.text}).expand(b, heads, n, m)", call], mask.tensors, 1


@st.composite
def in_blocks(draw: st.DrawFn) -> tuple[list[str], tuple[Tensor, ...], int]:
    """Tokens in blocks or residue classes by reshaping, rolled or not, attention inside."""
    width = draw(st.sampled_from([2, 4, 8, 16, 20]))
    shift = draw(st.sampled_from([0, 0, 1, width // 2]))
    split, undo = draw(
        st.sampled_from(
            [
                (f"x.reshape(b, heads, n // {width}, {width}, x.shape[-1])", "o.reshape(b, heads, n, -1)"),
                (f"x.unflatten(2, (n // {width}, {width}))", "o.flatten(2, 3)"),
                (f"x.unflatten(2, (-1, {width})).transpose(2, 3)", "o.transpose(2, 3).reshape(b, heads, n, -1)"),
                (f"x.view(b, heads, {width}, -1, x.shape[-1])", "o.reshape(b, heads, n, -1)"),
            ]
        )
    )
    inner = draw(st.sampled_from(["(q @ k.mT / d**0.5).softmax(-1) @ v", "F.scaled_dot_product_attention(q, k, v)"]))
    lines = ["q, k, v = (x.contiguous() for x in (q, k, v))"]
    if shift:
        lines.append(f"q, k, v = (x.roll(-{shift}, 2) for x in (q, k, v))")
    lines += [f"q, k, v = ({split} for x in (q, k, v))", f"o = {inner}", f"o = {undo}"]
    if shift:
        lines.append(f"o = o.roll({shift}, 2)")
    return lines, (), width


@st.composite
def two_sources(draw: st.DrawFn) -> tuple[list[str], tuple[Tensor, ...], int]:
    """Own keys and other ones (learned or pooled) in one softmax."""
    width = draw(st.sampled_from([2, 4, 8]))
    mask: Part = draw(masks)
    pooled = draw(st.booleans())
    if pooled:
        how = draw(st.sampled_from(["mean(-2)", "sum(-2)", "amax(-2)"])) if draw(st.booleans()) else "mean(-2)"
        make = [f"ck, cv = (x.reshape(b, heads, m // {width}, {width}, x.shape[-1]).{how} for x in (k, v))"]
        seen = draw(st.sampled_from([f"c < i // {width}", f"c <= i // {width} - 1", "c >= 0", f"c * {width} < i"]))
        tensors: tuple[Tensor, ...] = ()
    else:
        make = ["ck, cv = (x.expand(b, heads, -1, -1) for x in (memory_k, memory_v))"]
        seen, tensors = "c >= 0", (
            Tensor("memory_k", f"(heads, {width}, d)", "normal"), Tensor("memory_v", f"(heads, {width}, e)", "normal"),
        )  # fmt: skip
    lines = [
        "i, j = torch.arange(n)[:, None], torch.arange(m)[None, :]",
        *make,
        "c = torch.arange(ck.shape[-2])[None, :]",
        f"keep_ = {mask.text}",
        "fine = (q @ k.mT).masked_fill(~keep_, float('-inf'))",
        f"coarse = (q @ ck.mT).masked_fill(~({seen}), float('-inf'))",
    ]
    order = draw(st.booleans())
    first, second = (("coarse", "fine"), ("cv", "v")) if order else (("fine", "coarse"), ("v", "cv"))
    lines += [
        f"p = (torch.cat([{', '.join(first)}], -1) / d**0.5).softmax(-1)",
        f"o = p @ torch.cat([{', '.join(second)}], -2)",
    ]
    return lines, (*mask.tensors, *tensors), width if pooled else 1


@st.composite
def merged(draw: st.DrawFn) -> tuple[list[str], tuple[Tensor, ...], int]:
    """Two attentions, added with weights or a gate."""
    a, some = draw(_scores())
    b, more = draw(_scores())
    how, gate = draw(
        st.sampled_from(
            [
                ("o = 0.3 * first + 0.7 * o", ()),
                ("o = first + o", ()),
                ("w = torch.sigmoid(mix)", (Tensor("mix", "(b, heads, n, 1)", "normal"),)),
                ("o = torch.cat([first, o], -1)", ()),
                ("o = first - 0.5 * o", ()),
                ("w = torch.sigmoid(lse - s.logsumexp(-1, keepdim=True))", ()),
            ]
        )
    )
    by_lse = how.startswith("w =") and not gate
    lines = [*draw(POSITIONS), *a, "first = o", *(["lse = s.logsumexp(-1, keepdim=True)"] if by_lse else []), *b, how]
    if how.startswith("w ="):
        lines.append("o = w * first + (1 - w) * o")
    return lines, (*some, *more, *gate), 1


ORDER = Tensor("order", "(n,)", "order")


@st.composite
def reordered(draw: st.DrawFn) -> tuple[list[str], tuple[Tensor, ...], int]:
    """Tokens in another order for the attention, and back; or fewer keys."""
    lines, tensors = draw(_scores())
    width = draw(st.sampled_from([2, 3, 4]))
    there, back, more = draw(
        st.sampled_from(
            [
                ("(x.flip(2) for x in (q, k, v))", "o = o.flip(2)", ()),
                ("(x.flip(-2) for x in (q, k, v))", "o = o.flip(-2)", ()),
                ("(x[:, :, order] for x in (q, k, v))", "o = o[:, :, order.argsort()]", (ORDER,)),
                ("(x.index_select(2, order) for x in (q, k, v))", "o = o.index_select(2, order.argsort())", (ORDER,)),
                (f"(q, *(x[:, :, ::{width}] for x in (k, v)))", "", ()),
                (f"(q, *(x.unflatten(2, (-1, {width})).mean(3) for x in (k, v)))", "", ()),
                (f"(q, *(x.unflatten(2, (-1, {width})).amax(3) for x in (k, v)))", "", ()),
                (f"(q, *(F.avg_pool1d(x.flatten(0, 1).mT, {width}).mT.unflatten(0, (b, heads)) for x in (k, v)))",
                 "", ()),
                (f"(x.unflatten(2, (-1, {width})).transpose(2, 3).flatten(2, 3) for x in (q, k, v))",
                 f"o = o.unflatten(2, ({width}, -1)).transpose(2, 3).flatten(2, 3)", ()),
                ("(torch.cat([x[:, :, 1:], x[:, :, :1]], 2) for x in (q, k, v))", "", ()),
            ]
        )
    )  # fmt: skip
    if there.startswith("(q, *") and any("m" in t.shape for t in tensors):  # there are fewer keys by now
        tensors, lines = (), draw(st.sampled_from([["o = F.scaled_dot_product_attention(q, k, v)"],
                                                   ["o = (q @ k.mT).softmax(-1) @ v"]]))  # fmt: skip
    start = [f"q, k, v = {there}", "m = k.shape[2]", *draw(POSITIONS)]
    return [*start, *lines, *([back] if back else [])], (*tensors, *more), width


BEFORE = st.sampled_from([(), (), (), ("q = q * 0.5",), ("q = F.normalize(q, dim=-1)", "k = F.normalize(k, dim=-1)")])
SHARED = st.sampled_from(
    [
        ("k, v = (x.repeat_interleave(heads // k.shape[1], 1) for x in (k, v))",),
        ("k, v = (x[:, :, None].expand(-1, -1, heads // k.shape[1], -1, -1).flatten(1, 2) for x in (k, v))",),
    ]
)  # fmt: skip
AFTER = st.sampled_from(
    [(), (), (), ("o = o.transpose(1, 2).flatten(2)",), ("o = o.transpose(1, 2).reshape(b, n, -1)",), ("o = o * 2",)]
)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A program whose eager code takes its own inputs."""
    drawn = draw(st.one_of(plain(), plain(), plain(), sdpa(), in_blocks(), two_sources(), merged(), reordered(), doors))
    door = drawn if isinstance(drawn, Door) else None
    lines, tensors, multiple = (door.eager, door.tensors, 1) if isinstance(drawn, Door) else drawn
    square = multiple > 1
    n = draw(LENGTHS)
    m = n if square or draw(st.booleans()) else draw(LENGTHS)
    if square:
        n = m = n // multiple * multiple
    kv = draw(st.sampled_from([1, 1, 1, 2]))
    heads = kv * draw(st.sampled_from([1, 2, 3])) if kv == 2 else draw(st.sampled_from([1, 2, 3]))
    kv_heads = 2 if kv == 2 else heads
    d = draw(WIDTHS)
    e = d if square else draw(st.sampled_from([d, d, 7, 24]))
    shared = draw(SHARED) if kv_heads != heads and door is None else ()
    before, after = draw(BEFORE), (*draw(AFTER), "return o")
    if d == 1 and any("normalize" in line for line in before):  # constants: gradients are exactly 0 by cancellation
        before = ()
    return Program(
        (*before, *shared, *lines, *after),
        tuple(dict.fromkeys(tensors)),
        (draw(st.integers(1, 2)), heads, kv_heads, n, m, d, e),
        draw(DTYPES),
        draw(st.sampled_from(LAYOUTS)),
        (*before, *door.ours, *after) if door else (),
    )
