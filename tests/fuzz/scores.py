"""Random scores: what happens between the product of query and key, and the mask."""

from __future__ import annotations

from hypothesis import strategies as st

from .parts import Part, Tensor

SCALED = st.sampled_from(
    [
        "s = q @ k.mT / q.shape[-1] ** 0.5",
        "s = torch.matmul(q, k.transpose(-2, -1)) * q.shape[-1] ** -0.5",
        "s = torch.einsum('bhid,bhjd->bhij', q, k) / math.sqrt(q.shape[-1])",
        "s = (q * 0.25) @ k.mT",
        "s = q @ (k / 4).mT",
        "s = 0.3 * torch.einsum('b h i d, b h j d -> b h i j', q, k)",
        "s = (k @ q.mT).mT / math.sqrt(d)",
        "s = q @ k.swapaxes(-1, -2)",
    ]
)


def _float(name: str, shape: str, kind: str = "normal") -> tuple[Tensor, ...]:
    return (Tensor(name, shape, kind),)


STEPS = [
    Part("s = s + table[:, (i - j).clamp(-8, 8) + 8]", _float("table", "(heads, 17)")),
    Part("s = s + by_distance[(j - i).clamp(-4, 4) + 4].permute(2, 0, 1)", _float("by_distance", "(9, heads)")),
    Part("s = s + tile[i % 5, j % 5]", _float("tile", "(5, 5)")),
    Part("s = s * (1 + wheel[:, (i + j) % 6])", _float("wheel", "(heads, 6)")),
    Part("s = s + bias", _float("bias", "(heads, n, m)")),
    Part("s += shared_bias", _float("shared_bias", "(b, 1, n, m)")),
    Part("s = s + per_key[:, None, None, :]", _float("per_key", "(b, m)")),
    Part("s = s * per_query[..., None]", _float("per_query", "(b, heads, n)", "positive")),
    Part("s = s * temperature", _float("temperature", "()", "positive")),
    Part("s = s / temperatures[:, None, None]", _float("temperatures", "(heads,)", "positive")),
    Part("s = s - slopes[:, None, None] * (i - j).abs()", _float("slopes", "(heads,)", "positive")),
    Part("s = s - 0.25 * (h + 1) * (i - j).abs()"),
    Part("s = s - 0.5 ** (h + 1) * (i - j).abs()"),
    Part("s = 5 * torch.tanh(s / 5)"),
    Part("s = cap[:, None, None] * torch.tanh(s / cap[:, None, None])", _float("cap", "(heads,)", "positive")),
    Part("s = s * torch.sigmoid(gate)", _float("gate", "(b, heads, n, m)")),
    Part("s = F.relu(s)"),
    Part("s = torch.where(j <= i, s, s * 0.5)"),
    Part("s = s + torch.log1p((i - j).abs().to(s.dtype))"),
    Part("s = s.clamp(-3, 3)"),
    Part("s = -(s ** 2)"),
    Part("s = s + (i == j)"),
    Part(
        "s = s + torch.einsum('bhid,ijd->bhij', q, rows[(j - i).reshape(n, m).clamp(-3, 3) + 3])",
        _float("rows", "(7, d)"),
    ),
    Part("s = s + (q @ slope)[..., None] * (i - j) / 16", _float("slope", "(d,)")),
    Part(
        "s = s + (q @ near_rows.mT).gather(-1, ((i - j).reshape(n, m).clamp(-2, 2) + 2).expand(b, heads, n, m))",
        _float("near_rows", "(5, d)"),
    ),
]
steps = st.lists(st.sampled_from(STEPS), max_size=2, unique_by=lambda p: p.text)

MASKED = st.sampled_from(
    [
        "s = s.masked_fill(~keep_, float('-inf'))",
        "s = s.masked_fill(keep_.logical_not(), -torch.inf)",
        "s = torch.where(keep_, s, float('-inf'))",
        "s = s.where(keep_, -math.inf)",
        "s = s + torch.zeros(n, m, dtype=s.dtype).masked_fill(~keep_, float('-inf'))",
        "s = s + torch.where(keep_, 0.0, float('-inf')).to(s.dtype)",
        "s.masked_fill_(~keep_, float('-inf'))",
        "s = torch.masked_fill(s, keep_ == False, float('-inf'))",
        "s = s.masked_fill(~keep_, torch.finfo(s.dtype).min)",
        "s = s.masked_fill(~keep_, -1e4)",
    ]
)
NORMALISED = st.sampled_from(
    [
        ("o = s.softmax(-1) @ v",),
        ("p = torch.softmax(s, dim=-1)", "o = torch.einsum('bhij,bhjd->bhid', p, v)"),
        ("o = F.softmax(s, -1).matmul(v)",),
        ("p = F.softmax(s, dim=-1, dtype=torch.float64).to(s.dtype)", "o = p @ v"),
        ("o = s.log_softmax(-1).exp() @ v",),
        ("e = (s - s.amax(-1, keepdim=True)).exp()", "o = (e / e.sum(-1, keepdim=True)) @ v"),
        ("e = torch.exp(s - s.max(dim=-1, keepdim=True).values)", "o = (e @ v) / e.sum(-1, keepdim=True)"),
        ("p = (s - s.logsumexp(-1, keepdim=True)).exp()", "o = p @ v"),
    ]
)
