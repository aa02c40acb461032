"""Attention in many spellings: each function must raise to fused attention and keep its numbers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

B, H, N, D = 2, 3, 12, 8
INF = float("inf")


def tensors(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def qkv(n: int = N, m: int | None = None) -> list[torch.Tensor]:
    m = n if m is None else m
    return tensors((B, H, n, D), (B, H, m, D), (B, H, m, D + 2))


CASES: dict[str, tuple] = {}  # name -> (function, arguments)


def case(*args: torch.Tensor):
    def add(fn):
        CASES[fn.__name__] = (fn, args)
        return fn

    return add


# ---- normalisers ---------------------------------------------------------------------------------------


@case(*qkv(12, 9))
def plain(q, k, v):
    return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v


@case(*qkv())
def prescaled(q, k, v):
    q = q * q.shape[-1] ** -0.5
    return torch.matmul(torch.softmax(torch.matmul(q, k.mT), dim=-1), v)


@case(*qkv())
def by_hand(q, k, v):
    s = torch.einsum("bhid,bhjd->bhij", q, k) * 0.3
    e = torch.exp(s - s.amax(-1, keepdim=True))
    return torch.einsum("bhij,bhjd->bhid", e / e.sum(-1, keepdim=True), v)


@case(*qkv())
def max_values(q, k, v):
    s = q @ k.mT
    m = s.max(dim=-1, keepdim=True).values
    p = (s - m).exp()
    return (p @ v) / p.sum(dim=-1, keepdim=True)


@case(*qkv())
def no_shift(q, k, v):
    p = torch.exp(0.1 * (q @ k.mT))
    return p @ v / p.sum(-1)[..., None]


@case(*qkv())
def log_softmax(q, k, v):
    return torch.log_softmax(q @ k.mT, -1).exp() @ v


@case(*qkv())
def log_sum_exp(q, k, v):
    s = q @ k.mT * 0.2
    return torch.exp(s - torch.logsumexp(s, dim=-1, keepdim=True)) @ v


@case(*qkv())
def power_of_two(q, k, v):
    p = torch.exp2(q @ k.mT * (0.2 * math.log2(math.e)))
    return (p / p.sum(-1, keepdim=True)) @ v


@case(*qkv())
def product_and_sum(q, k, v):
    s = (q[..., :, None, :] * k[..., None, :, :]).sum(-1)
    return (s.softmax(-1)[..., None] * v[..., None, :, :]).sum(-2)


@case(*qkv())
def dropout_off(q, k, v):
    p = F.softmax(q @ k.mT, dim=-1, dtype=torch.float64).to(q.dtype)
    return F.dropout(p, 0.0, training=True) @ v


@case(*[x.reshape(B * H, N, -1) for x in qkv()])
def baddbmm(q, k, v):
    bias = torch.zeros(q.shape[0], q.shape[1], k.shape[1], dtype=q.dtype)
    return torch.bmm(torch.baddbmm(bias, q, k.transpose(1, 2), beta=1, alpha=0.125).softmax(-1), v)


@case(*[x[0, 0] for x in qkv(12, 7)])
def rank_two(q, k, v):
    return torch.softmax(q @ k.T, dim=1) @ v


@case(*qkv())
def output_first_layout(q, k, v):
    p = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
    return torch.einsum("bhij,bhje->bihe", p, v).flatten(2)


# ---- scaled_dot_product_attention ---------------------------------------------------------------------------


@case(*qkv(12, 9))
def sdpa(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


@case(*qkv(12, 9))
def sdpa_causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.4)


@case(*qkv())
def sdpa_bool_mask(q, k, v):
    i = torch.arange(q.shape[-2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=(i[:, None] - i[None, :]).abs() <= 3)


@case(*qkv(), *tensors((H, N, N)))
def sdpa_float_mask(q, k, v, bias):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


@case(*tensors((B, 6, N, D), (B, 2, N, D), (B, 2, N, D)))
def sdpa_gqa(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


# ---- masks ------------------------------------------------------------------------------------------------


@case(*qkv())
def masked_fill(q, k, v):
    n = q.shape[-2]
    mask = torch.tril(torch.ones(n, n, dtype=torch.bool))
    return (q @ k.mT).masked_fill(~mask, -INF).softmax(-1) @ v


@case(*qkv())
def triu_of_full(q, k, v):
    n = q.shape[2]
    return (q @ k.mT + torch.full((n, n), -INF, dtype=q.dtype).triu(1)).softmax(-1) @ v


@case(*qkv(24))
def dilated_window(q, k, v):
    scores = q @ k.mT / q.shape[-1] ** 0.5
    i = torch.arange(q.shape[-2])[:, None]
    j = torch.arange(k.shape[-2])[None, :]
    near = ((i - j).abs() <= 8) & ((i - j) % 4 == 0)
    return scores.masked_fill(~near, -INF).softmax(-1) @ v


@case(*qkv())
def where_infinity(q, k, v):
    i = torch.arange(q.size(-2)).unsqueeze(1)
    j = torch.arange(k.size(-2)).unsqueeze(0)
    return torch.where((j > i) | (i - j >= 4), -INF, q @ k.mT).softmax(-1) @ v


@case(*qkv())
def additive_zeros(q, k, v):
    n = q.shape[-2]
    i = torch.arange(n)
    keep = i[:, None] // 4 == i[None, :] // 4
    bias = torch.zeros(n, n, dtype=q.dtype).masked_fill(~keep, -INF)
    return (q @ k.mT + bias).softmax(-1) @ v


@case(*qkv())
def exp_times_mask(q, k, v):
    i = torch.arange(q.shape[-2])
    m = (i[:, None] >= i).to(q.dtype)
    e = (q @ k.mT).exp() * m
    return (e @ v) / e.sum(-1, keepdim=True)


@case(*qkv())
def finite_fill(q, k, v):
    i = torch.arange(q.shape[-2])
    return (q @ k.mT).masked_fill(i[None, :] > i[:, None], -1e9).softmax(-1) @ v


@case(*qkv())
def one_minus_mask(q, k, v):
    i = torch.arange(q.shape[-2])
    m = (i[None, :] <= i[:, None]).double()
    return (q @ k.mT + (1 - m) * -1e9).softmax(-1) @ v


@case(*qkv(), torch.tensor([[0] * 5 + [1] * 7, [0] * 3 + [1] * 4 + [2] * 5]))
def documents(q, k, v, doc):
    same = doc[:, None, :, None] == doc[:, None, None, :]
    return torch.where(same, q @ k.mT, -INF).softmax(-1) @ v


@case(*qkv(), torch.arange(N)[None, :] < torch.tensor([[7], [12]]))
def key_padding(q, k, v, keep):
    return (q @ k.mT).masked_fill(~keep[:, None, None, :], -INF).softmax(dim=-1) @ v


@case(*qkv())
def empty_rows(q, k, v):
    i = torch.arange(q.shape[-2])
    mask = i[:, None] - i[None, :] >= 3
    p = (q @ k.mT).masked_fill(~mask, -INF).softmax(-1)
    return torch.nan_to_num(p, 0.0) @ v


@case(*qkv())
def remasked(q, k, v):
    i = torch.arange(q.shape[-2])
    mask = i[:, None] >= i[None, :]
    p = (q @ k.mT).masked_fill(~mask, -INF).softmax(-1)
    return p.masked_fill(~mask, 0.0) @ v


@case(*qkv(16))
def powers_of_two(q, k, v):
    i = torch.arange(q.shape[-2])
    d = i[:, None] - i[None, :]
    live = (d >= 0) & ((d & (d - 1)) == 0)
    return (q @ k.mT).masked_fill(~live, -INF).softmax(-1) @ v


# ---- scores -------------------------------------------------------------------------------------------------


@case(*qkv(), *tensors((1, H, 1, N)))
def broadcast_bias(q, k, v, bias):
    return (q @ k.mT * 0.5 + bias).softmax(-1) @ v


@case(*qkv(), *tensors((2 * N - 1, H)))
def relative_table(q, k, v, table):
    n = q.shape[-2]
    i = torch.arange(n)
    bias = table[i[:, None] - i[None, :] + n - 1].permute(2, 0, 1)
    return (q @ k.mT + bias).softmax(-1) @ v


@case(*qkv())
def alibi(q, k, v):
    h, n = q.shape[1], q.shape[2]
    slopes = 2.0 ** (-8.0 * torch.arange(1, h + 1, dtype=q.dtype) / h)
    i = torch.arange(n)
    distance = (i[None, :] - i[:, None]).abs()
    return (q @ k.mT - slopes[:, None, None] * distance).softmax(-1) @ v


@case(*qkv())
def soft_cap(q, k, v):
    s = q @ k.mT / 8**0.5
    return (torch.tanh(s / 5.0) * 5.0).softmax(-1) @ v


@case(*qkv(), *tensors((H,)))
def head_temperature(q, k, v, temperature):
    return (q * temperature[:, None, None] @ k.mT).softmax(-1) @ v


@case(*qkv())
def cosine(q, k, v):
    q, k = F.normalize(q, dim=-1), k / k.norm(dim=-1, keepdim=True)
    return (10 * q @ k.mT).softmax(-1) @ v


@case(*tensors((B, N, 3 * H * D)))
def packed_projection(x):
    b, n, c = x.shape
    q, k, v = x.reshape(b, n, 3, 3, c // 9).permute(2, 0, 3, 1, 4).unbind(0)
    return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(b, n, c // 3)


# ---- layouts ------------------------------------------------------------------------------------------------


@case(*tensors((B, 6, N, D), (B, 2, N, D), (B, 2, N, D)))
def gqa_repeat(q, k, v):
    k, v = (x.repeat_interleave(3, dim=1) for x in (k, v))
    return (q @ k.mT).softmax(-1) @ v


@case(*tensors((B, 6, N, D), (B, 2, N, D), (B, 2, N, D)))
def gqa_expand(q, k, v):
    k, v = (x[:, :, None].expand(-1, -1, 3, -1, -1).reshape(B, 6, x.shape[2], D) for x in (k, v))
    return (q @ k.mT).softmax(-1) @ v


@case(*tensors((B, 6, N, D), (B, 2, N, D), (B, 2, N, D)))
def gqa_five_dims(q, k, v):
    q = q.unflatten(1, (2, 3))
    return ((q @ k[:, :, None].mT).softmax(-1) @ v[:, :, None]).flatten(1, 2)


@case(*qkv(16))
def blocks(q, k, v):
    b, h, n, _d = q.shape
    q, k, v = (x.view(b, h, n // 4, 4, -1) for x in (q, k, v))
    return ((q @ k.mT).softmax(-1) @ v).view(b, h, n, -1)


@case(*qkv(16))
def residue_classes(q, k, v):
    b, h, n, _d = q.shape
    q, k, v = (x.view(b, h, n // 4, 4, -1).transpose(2, 3) for x in (q, k, v))
    return ((q @ k.mT).softmax(-1) @ v).transpose(2, 3).reshape(b, h, n, -1)


@case(*tensors((B, 8, 8, D), (B, 8, 8, D), (B, 8, 8, D)), *tensors((16, 16)))
def shifted_windows(q, k, v, bias):
    def partition(x):
        b, hh, ww, c = x.shape
        x = torch.roll(x, shifts=(-2, -2), dims=(1, 2))
        return x.view(b, hh // 4, 4, ww // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)

    b, hh, ww, c = q.shape
    qw, kw, vw = partition(q), partition(k), partition(v)
    out = (qw @ kw.transpose(1, 2) * c**-0.5 + bias).softmax(-1) @ vw
    out = out.view(b, hh // 4, ww // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, hh, ww, c)
    return torch.roll(out, shifts=(2, 2), dims=(1, 2))


@case(*qkv(12, 5))
def flipped(q, k, v):
    return (q.flip(2) @ k.mT).softmax(-1) @ v


@case(*tensors((B, H, D), (B, H, N, D), (B, H, N, D)))
def decode(q, k, v):
    return torch.einsum("bhn,bhnd->bhd", torch.einsum("bhd,bhnd->bhn", q, k).softmax(-1), v)


# ---- several sources ----------------------------------------------------------------------------------------


@case(*qkv(12, 9), *tensors((B, H, 4, D), (B, H, 4, D + 2)))
def joint_values(q, k, v, gk, gv):
    s = torch.cat([q @ gk.mT, q @ k.mT], dim=-1)
    return s.softmax(-1) @ torch.cat([gv, v], dim=-2)


@case(*qkv(12, 9), *tensors((B, H, 4, D), (B, H, 4, D + 2)))
def joint_slices(q, k, v, gk, gv):
    m = gk.shape[-2]
    near = (q @ k.mT).masked_fill(torch.arange(9)[None, :] > torch.arange(12)[:, None], -INF)
    p = torch.softmax(torch.cat([q @ gk.mT, near], dim=-1), dim=-1)
    return p[..., :m] @ gv + p[..., m:] @ v


@case(*qkv(12, 9), *tensors((B, H, 4, D), (B, H, 4, D + 2)))
def joint_sums(q, k, v, gk, gv):
    a, b = (q @ k.mT).exp(), (q @ gk.mT).exp()
    return (a @ v + b @ gv) / (a.sum(-1, keepdim=True) + b.sum(-1, keepdim=True))


@case(*qkv(16))
def pooled(q, k, v):
    b, h, n, _d = k.shape
    pk, pv = (x.view(b, h, n // 4, 4, -1).mean(-2) for x in (k, v))
    return (q @ pk.mT).softmax(-1) @ pv


@case(*qkv(), *tensors((H,)))
def sink(q, k, v, sinks):
    s = q @ k.mT
    column = sinks[None, :, None, None].expand(s.shape[0], -1, s.shape[2], 1)
    return torch.cat([s, column], dim=-1).softmax(-1)[..., :-1] @ v


@case(*qkv())
def registers(q, k, v):
    k, v = torch.cat([k[:, :, :2], k], dim=2), torch.cat([v[:, :, :2], v], dim=2)
    return (q @ k.mT).softmax(-1) @ v


# ---- keys counted from the query -----------------------------------------------------------------------------


@case(*qkv())
def unfolded(q, k, v):
    k, v = (F.pad(x, (0, 0, 4, 0)).unfold(2, 5, 1) for x in (k, v))  # (B, H, N, D, 5)
    s = torch.einsum("bhnd,bhndt->bhnt", q, k)
    t, i = torch.arange(5), torch.arange(q.shape[2])[:, None]
    s = s.masked_fill(i + t < 4, -INF)
    return torch.einsum("bhnt,bhndt->bhnd", s.softmax(-1), v)


@case(*qkv())
def shifted_neighbourhood(q, k, v):
    n = q.shape[2]
    i = torch.arange(n)
    start = (i - 2).clamp(0, n - 5)
    at = start[:, None] + torch.arange(5)[None, :]
    k, v = k[:, :, at], v[:, :, at]
    p = torch.einsum("bhid,bhitd->bhit", q, k).softmax(-1)
    return torch.einsum("bhit,bhitd->bhid", p, v)


# ---- several stages -------------------------------------------------------------------------------------------


@case(*qkv(16))
def two_stages(q, k, v):
    b, h, n, _d = q.shape
    qb, kb, vb = (x.view(b, h, n // 4, 4, -1) for x in (q, k, v))
    y = ((qb @ kb.mT).softmax(-1) @ vb).view(b, h, n, -1)
    return torch.relu((q @ k.mT * 0.1).softmax(-1) @ y) + y


@case(*tensors((B, N, H * D), (3 * H * D, H * D), (H * D, H * D)))
def module_like(x, w_qkv, w_out):
    b, n, c = x.shape
    q, k, v = F.linear(x, w_qkv).chunk(3, dim=-1)
    q, k, v = (t.view(b, n, 3, c // 3).transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return x + F.linear(out.transpose(1, 2).contiguous().view(b, n, c), w_out)


# ---- more ways of saying the same -------------------------------------------------------------------------------


@case(*qkv())
def clamped_window(q, k, v):
    n = q.shape[2]
    raw = torch.arange(n)[:, None] + torch.arange(5)[None, :] - 2
    at = raw.clamp(0, n - 1)
    s = torch.einsum("bhid,bhitd->bhit", q, k[:, :, at]).masked_fill((raw < 0) | (raw >= n), -INF)
    return torch.einsum("bhit,bhitd->bhid", s.softmax(-1), v[:, :, at])


@case(*qkv())
def rotary(q, k, v):
    n, d = q.shape[-2:]
    f = torch.arange(n, dtype=q.dtype)[:, None] * (10000 ** (-torch.arange(0, d // 2, dtype=q.dtype) / 4))
    c, s = torch.cat([f.cos()] * 2, -1), torch.cat([f.sin()] * 2, -1)

    def rotate(x):
        return x * c + torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1) * s

    return F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)


@case(*qkv(16), *tensors((B, H, 16, 1)))
def gated_branches(q, k, v, g):
    b, h, n, d = q.shape
    qb, kb, vb = (x.view(b, h, n // 4, 4, -1) for x in (q, k, v))
    near = ((qb @ kb.mT).softmax(-1) @ vb).view(b, h, n, -1)
    far = (q @ k.view(b, h, n // 4, 4, d).mean(3).mT).softmax(-1) @ v.view(b, h, n // 4, 4, -1).mean(3)
    return g * near + (1 - g) * far


@case(*tensors((B, 16, D), (B, 16, D), (B, 16, D)))
def chunked_window(q, k, v):
    b, n, d = q.shape
    q = q.view(b, n // 4, 4, d)
    k, v = (F.pad(x, (0, 0, 4, 0)).unfold(1, 8, 4).transpose(-1, -2) for x in (k, v))
    i, j = torch.arange(4)[:, None] + 4, torch.arange(8)[None]
    g = torch.arange(n // 4)[:, None, None]
    live = (j <= i) & (i - j < 4) & (g * 4 + j >= 4)
    return ((q @ k.mT).masked_fill(~live, -INF).softmax(-1) @ v).reshape(b, n, d)


@case(*qkv())
def infinity_by_index(q, k, v):
    n = q.shape[-2]
    mask = torch.zeros(n, n, dtype=q.dtype)
    mask[torch.ones(n, n, dtype=torch.bool).triu(1)] = -INF
    return (q @ k.mT + mask).softmax(-1) @ v


# ---- factors outside the softmax, and sums that are returned -------------------------------------------------------


@case(*qkv(), *tensors((H,)))
def head_gate(q, k, v, g):
    return ((q @ k.mT).softmax(-1) * torch.sigmoid(g)[:, None, None]) @ v


@case(*qkv(), *tensors((B, H, N, 1)))
def row_gate(q, k, v, g):
    return ((q @ k.mT).softmax(-1) / (1 + g.abs())) @ v


@case(*qkv(), *tensors((B, 1, 1, N)))
def key_gate(q, k, v, g):
    return torch.einsum("bhij,bhje->bihe", 2.0 * (q @ k.mT).softmax(-1) * g.sigmoid(), v.expand(B, H, N, D + 2))


@case(*qkv())
def one_plus_sum(q, k, v):
    e = (q @ k.mT * 0.1).exp()
    return e @ v / (1 + e.sum(-1, keepdim=True))


@case(*qkv())
def merged_by_lse(q, k, v):
    s, i = q @ k.mT * 0.3, torch.arange(q.shape[2])
    near = i[:, None] // 4 == i // 4
    a, b = s.masked_fill(~near, -INF), s.masked_fill(near, -INF)
    la, lb = a.logsumexp(-1, keepdim=True), b.logsumexp(-1, keepdim=True)
    both = torch.logaddexp(la, lb)
    return (a - la).exp() @ v * (la - both).exp() + (b - lb).exp() @ v * (lb - both).exp()


# ---- masks written part by part, blocks with their neighbours -------------------------------------------------------


@case(*qkv())
def globals_by_assignment(q, k, v):
    n = q.shape[2]
    i = torch.arange(n)
    near = (i[:, None] - i).abs() < 3
    near = near | torch.zeros_like(near)
    near[:, :2] = True
    near[3, :] = True
    return (q @ k.mT).masked_fill(~near, -INF).softmax(-1) @ v


@case(*qkv(16))
def look_around(q, k, v):
    b, h, n, d = q.shape
    w, c = 4, n // 4

    def around(t, fill=0.0):
        p = F.pad(t, (0, 0, 0, 0, 1, 1), value=fill)
        return torch.cat([p[:, :, m : m + c] for m in range(3)], dim=3)

    qb, kb, vb = (t.reshape(b, h, c, w, -1) for t in (q, k, v))
    at = torch.arange(n).reshape(c, w)
    padded = F.pad(at, (0, 0, 1, 1), value=-1)
    keys = torch.cat([padded[m : m + c] for m in range(3)], dim=1)
    dead = (keys[:, None] == -1) | (keys[:, None] > at[:, :, None]) | (at[:, :, None] - keys[:, None] > w)
    s = torch.einsum("bhcid,bhcjd->bhcij", qb, around(kb)) * d**-0.5
    p = s.masked_fill(dead, -torch.finfo(s.dtype).max).softmax(-1)
    return torch.einsum("bhcij,bhcjd->bhcid", p, around(vb)).reshape(b, h, n, -1)


@case(*qkv(16))
def rolled_neighbours(q, k, v):
    b, h, n, _d = q.shape
    q, k, v = (t.reshape(b, h, n // 4, 4, -1) for t in (q, k, v))
    k, v = (torch.cat([t.roll(1, 2), t, t.roll(-1, 2)], dim=-2) for t in (k, v))
    i, j, g = torch.arange(4)[:, None], torch.arange(12)[None] - 4, torch.arange(n // 4)[:, None, None]
    live = ((i - j).abs() <= 4) & (g * 4 + j >= 0) & (g * 4 + j < n)
    return ((q @ k.mT).masked_fill(~live, -INF).softmax(-1) @ v).reshape(b, h, n, -1)


def _score(name, change):
    """A case whose scores go through ``change``, a function of scores, query and key positions."""

    def scored(q, k, v):
        i, j = torch.meshgrid(torch.arange(q.shape[2]), torch.arange(k.shape[2]), indexing="ij")
        return change(q @ k.mT, i, j).softmax(-1) @ v

    CASES[name] = scored, qkv()


for _name, _change in {
    "log1p": lambda s, i, j: s - torch.log1p((i - j).abs().to(s.dtype)),
    "log10": lambda s, i, j: s - torch.log10((i - j).abs().to(s.dtype) + 1),
    "hypot": lambda s, i, j: s - torch.hypot((i // 4 - j // 4).to(s.dtype), (i % 4 - j % 4).to(s.dtype)),
    "sign": lambda s, i, j: s * torch.sign(i - j),
    "truncated": lambda s, i, j: s + torch.div(i - j, 3, rounding_mode="trunc") * 0.5 + torch.fmod(i - j, 3) * 0.25,
    "infinite": lambda s, i, j: s.masked_fill(torch.isneginf(torch.zeros_like(s).masked_fill(j > i, -INF)), -INF),
    "xy_grid": lambda s, i, j: s + torch.meshgrid(j[0], i[:, 0], indexing="xy")[0] * 0.5,
    "expm1": lambda s, i, j: torch.expm1(s / 4),
    "silu": lambda s, i, j: F.silu(s),
    "mish": lambda s, i, j: F.mish(s),
    "softplus": lambda s, i, j: F.softplus(s, beta=2, threshold=3),
    "logsigmoid": lambda s, i, j: F.logsigmoid(s),
    "gelu": lambda s, i, j: F.gelu(s, approximate="tanh"),
    "elu": lambda s, i, j: F.elu(s, 0.5),
    "leaky_relu": lambda s, i, j: F.leaky_relu(s, negative_slope=0.2),
    "hardtanh": lambda s, i, j: F.hardtanh(s, min_val=-2.0, max_val=1.5) + F.relu6(s),
    "softsign": lambda s, i, j: F.softsign(s) + F.tanhshrink(s),
}.items():
    _score(_name, _change)
