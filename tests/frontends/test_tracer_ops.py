"""Each op: the node's call gives eager's numbers, shape and type, also at sizes that were not traced."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves

from attnc import compile

from .graph_runner import run_graph

OPS: dict[str, Callable[..., object]] = {}


def op(f: Callable[..., object]) -> Callable[..., object]:
    OPS[f.__name__] = f
    return f


def _table() -> None:
    N = -2
    for name, f in {
        "arithmetic": lambda q, k, v: (
            q + 1,
            2 - q,
            q * k,
            1 / (q + 9),
            q**2,
            2**q,
            q // 2,
            q % 3,
            -q,
            +q,
            abs(q),
            7 % (abs(q) + 1),
        ),
        "alpha": lambda q, k, v: torch.add(q, k, alpha=2) - torch.sub(q, k, alpha=0.5) + torch.rsub(q, 1),
        "compare": lambda q, k, v: (q > 0, q <= k, q == 0, q != k, q > 0, torch.ge(q, 1)),
        "boolean": lambda q, k, v: (
            (q > 0) & (k > 0),
            (q > 0) | (k > 0),
            ~(q > 0),
            (q > 0) ^ (k > 0),
            torch.logical_and(q, k),
        ),
        "integer": lambda q, k, v: (
            torch.arange(q.shape[N]) & 3,
            torch.arange(q.shape[N]) >> 1,
            1 << torch.arange(5),
            ~torch.arange(4),
        ),
        "unary": lambda q, k, v: (
            q.exp(),
            torch.tanh(q),
            q.abs().sqrt(),
            F.relu(q),
            F.gelu(q),
            F.silu(q),
            q.square(),
            q.sigmoid(),
            q.isnan(),
        ),
        "unary_args": lambda q, k, v: (
            F.gelu(q, approximate="tanh"),
            F.leaky_relu(q, 0.2),
            torch.round(q, decimals=1),
            F.softplus(q),
        ),
        "reciprocal": lambda q, k, v: (q.abs() + 1).reciprocal() + (q.abs() + 1).rsqrt(),
        "where": lambda q, k, v: (
            torch.where(q > 0, q, 0.0),
            torch.where(q > 0, q, k),
            q.where(q > 0, k),
            torch.where(q > 0, 1, 0),
        ),
        "masked_fill": lambda q, k, v: q.masked_fill(q > 0, float("-inf")),
        "clamp": lambda q, k, v: (
            q.clamp(0, 1),
            q.clamp(min=0),
            torch.clip(q, max=0.5),
            torch.maximum(q, k),
            torch.max(q, k),
        ),
        "reduce": lambda q, k, v: (
            q.sum(),
            q.sum(-1),
            q.mean((0, 1), keepdim=True),
            q.amax(dim=-1),
            torch.logsumexp(q, -1),
            (q > 0).any(-1),
        ),
        "reduce_dtype": lambda q, k, v: (
            q.sum(-1, dtype=torch.float64),
            (q > 0).sum(-1),
            q.prod(1),
            q.std(-1),
            q.norm(dim=-1),
        ),
        "extreme": lambda q, k, v: (
            q.max(),
            q.max(-1).values,
            q.max(dim=-1, keepdim=True)[0],
            q.argmax(-1),
            q.min(2)[1],
        ),
        "softmax": lambda q, k, v: (
            q.softmax(-1),
            F.softmax(q, dim=-1),
            torch.softmax(q, -1, torch.float64),
            q.log_softmax(1),
            F.softmin(q, -1),
        ),
        "scan": lambda q, k, v: (q.cumsum(-2), q.cumprod(-1), torch.cumsum(q, 1, dtype=torch.float64)),
        "matmul": lambda q, k, v: (
            q @ k.mT,
            torch.matmul(q, k.transpose(-1, -2)),
            torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT),
            q @ q[0, 0, 0],
        ),
        "addmm": lambda q, k, v: (
            torch.baddbmm(torch.zeros(1), q[0], k[0].mT, beta=0, alpha=0.5)
            + torch.baddbmm(torch.ones(1), q[0], k[0].mT, beta=2)
        ),
        "einsum": lambda q, k, v: (
            torch.einsum("bhid,bhjd->bhij", q, k),
            torch.einsum("...id,...jd->...ij", q, k),
            torch.einsum("bhid,bhjd", q, k),
        ),
        "linear": lambda q, k, v: F.linear(q, k[0, 0]),
        "sdpa": lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.ones(q.shape[N], k.shape[N], dtype=torch.bool).tril()
        ),
        "sdpa_causal": lambda q, k, v: F.scaled_dot_product_attention(q, q, q, is_causal=True, scale=0.3),
        "transpose": lambda q, k, v: (
            q.mT,
            q.transpose(1, 2),
            q.permute(0, 2, 1, 3),
            q[0, 0].T,
            q[0, 0].t(),
            q.movedim(1, -1),
            q.swapaxes(0, 1),
        ),
        "reshape": lambda q, k, v: (
            q.reshape(q.shape[0] * q.shape[1], q.shape[2], -1),
            q.flatten(),
            q.flatten(1, 2),
            q.transpose(1, 2).reshape(q.shape[0], q.shape[2], -1),
        ),
        "blocks": lambda q, k, v: q.reshape(q.shape[0], q.shape[1], q.shape[2] // 4, 4, -1).sum(3),
        "view_inferred": lambda q, k, v: (
            q.view(*q.shape[:2], -1, 4, q.shape[-1]),
            q.unflatten(2, (-1, 4)),
            q.unflatten(-1, (2, 4)),
        ),
        "unsqueeze": lambda q, k, v: (
            q.unsqueeze(1),
            q[:, None],
            q.unsqueeze(-1).squeeze(-1),
            q[..., None, :],
            q[:, :, :1].squeeze(),
        ),
        "expand": lambda q, k, v: (
            q[:, :, None].expand(-1, -1, 3, -1, -1),
            q[0, 0].expand_as(q),
            torch.broadcast_to(q[0], q.shape),
        ),
        "repeat": lambda q, k, v: (
            q.repeat(1, 2, 1, 1),
            q.repeat_interleave(2, dim=1),
            torch.tile(q, (2,)),
            q.repeat_interleave(3),
        ),
        "cat": lambda q, k, v: (
            torch.cat([k, v], -2),
            torch.cat([k, v, k], dim=2),
            torch.stack([k, v]),
            torch.hstack([k, v]),
            torch.cat((q, q.double()), 0),
        ),
        "roll": lambda q, k, v: (
            q.roll(1, 2),
            torch.roll(q, shifts=(1, -2), dims=(2, 3)),
            q.roll(3),
            q.roll(-(q.shape[N] // 2), -2),
        ),
        "flip": lambda q, k, v: (q.flip(2), q.flip((0, -1)), torch.fliplr(q)),
        "tril": lambda q, k, v: (
            (q @ k.mT).tril(),
            (q @ k.mT).triu(1),
            torch.ones(q.shape[N], q.shape[N], dtype=torch.bool).triu(diagonal=1),
        ),
        "pad": lambda q, k, v: (
            F.pad(q, (0, 0, 1, 2)),
            F.pad(q, (1, 1), value=2.0),
            F.pad(q, (0, 0, 0, 4 - q.shape[N] % 4)),
        ),
        "unfold": lambda q, k, v: F.pad(q, (0, 0, 2, 2)).unfold(2, 5, 1),
        "chunk": lambda q, k, v: (*q.chunk(2, -1), *q.split(3, -1), *q.split([2, q.shape[-1] - 2], -1), *q.unbind(1)),
        "slice": lambda q, k, v: (
            q[:, :, 1:],
            q[:, :, :-1],
            q[:, :, ::2],
            q[..., 2:5, :],
            q[:, :, -3:],
            q[:, :, 1 : q.shape[N] - 1],
            q.narrow(2, 1, 3),
        ),
        "select": lambda q, k, v: (q[0], q[:, 1], q[..., -1], q.select(2, 1), q[0, ..., 0, None]),
        "index": lambda q, k, v: (
            q[:, :, torch.arange(3)],
            q[:, :, [0, 2]],
            q.index_select(2, torch.arange(2)),
            q[:, torch.arange(2)[:, None], torch.arange(3)],
        ),
        "index_front": lambda q, k, v: (q[torch.arange(2), :, torch.arange(2)], q[:, 0, torch.arange(3)]),
        "gather": lambda q, k, v: (
            q.gather(2, torch.zeros(q.shape, dtype=torch.int64)),
            torch.take_along_dim(q, q.argsort(-1), -1),
        ),
        "table": lambda q, k, v: q[0, 0, :, 0][(torch.arange(4)[:, None] - torch.arange(4)[None]).abs()],
        "embedding": lambda q, k, v: F.embedding(torch.arange(4), q[0, 0]),
        "arange": lambda q, k, v: (
            torch.arange(q.shape[N]),
            torch.arange(1, q.shape[N], 2),
            torch.arange(3.0),
            torch.arange(q.shape[N] - 1, -1, -1),
            torch.arange(q.shape[N], dtype=torch.float32),
        ),
        "factories": lambda q, k, v: (
            torch.zeros(q.shape[N], 3),
            torch.ones((2,)),
            torch.full((q.shape[N],), 7),
            torch.full_like(q, -1),
            q.new_zeros(3, q.shape[N]),
            torch.zeros_like(q, dtype=torch.bool),
            torch.eye(q.shape[N]),
        ),
        "literals": lambda q, k, v: q * torch.tensor(2.0) + torch.tensor([1.0, 2.0, 3.0])[:, None, None],
        "conversions": lambda q, k, v: (
            q.double(),
            q.to(torch.bfloat16),
            q.half().float(),
            q.type(torch.float64),
            q.long(),
            (q > 0).to(q.dtype),
            q.type_as(q.half()),
        ),
        "nothing": lambda q, k, v: q.contiguous().clone().detach().to(q.device) + F.dropout(q, 0.5, training=False),
        "inplace": lambda q, k, v: [x := q.clone(), x.add_(1), x.mul_(2), x.masked_fill_(x > 3, 0.0)][0] + 0,
        "norms": lambda q, k, v: (F.layer_norm(q, (q.shape[-1],)), F.normalize(q, dim=-1), q.var(-1)),
        "unknown": lambda q, k, v: (
            torch.sinc(q),
            q.topk(3, -1).values,
            q.sort(-1)[0],
            torch.special.erf(q),
            F.avg_pool1d(q[0], 2),
            q.diff(dim=-1),
        ),
        "aten": lambda q, k, v: torch.ops.aten.mul.Tensor(q, k) + torch.ops.aten.add(q, 1),
        "sizes": lambda q, k, v: (
            q * q.shape[-1] ** -0.5,
            q / math.sqrt(q.size(-1)),
            q * (1.0 / q.shape[N]),
            q + math.ceil(q.shape[N] / 3),
            q * (q.shape[0] == 2),
            q * min(q.shape[1], 3),
        ),
        "meshgrid": lambda q, k, v: torch.meshgrid(torch.arange(q.shape[N]), torch.arange(3), indexing="ij"),
        "kron": lambda q, k, v: (
            torch.kron(torch.eye(q.shape[N] // 4), torch.ones(4, 3)),
            torch.kron(q[0, 0], torch.arange(3)),
        ),
        "pool": lambda q, k, v: (
            F.avg_pool1d(q[0].mT, 4),
            F.avg_pool1d(q[0].mT, 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
            F.avg_pool2d(q, (4, 2)),
            F.avg_pool2d(q, 3, 1, 1),
            F.avg_pool2d(q, 2, stride=(4, 1), divisor_override=3),
        ),
        "diagonal": lambda q, k, v: (q @ k.mT).diagonal(dim1=-2, dim2=-1),
        "lists": lambda q, k, v: {"a": [q + 1, (k,)], "n": q.shape[N], "none": None},
    }.items():
        f.__name__ = name
        op(f)


_table()


@op
def write_views(q, k, v):
    x = q * 2
    first, left = x[0], x.chunk(2, -1)[0]
    x[..., 0] += 3
    x[:, :, 1:, 2] *= 2
    x.mT[:, :, 0] = 1
    left.mul_(2)
    x.unflatten(-1, (2, 4))[..., 0].clamp_(min=0)
    x[:, None, :, 0].zero_()
    first[0] = 0.0
    return x, first, left


@op
def write_diagonal_and_flat(q, k, v):
    x = torch.zeros(q.shape[2], q.shape[2])
    flat = x.view(-1)
    flat[::2] = 1
    x.diagonal().fill_(5)
    x.reshape(-1)[0] = 9.0
    return x, flat


@op
def write_reshaped_copy(q, k, v):
    out = ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(q.shape[0], q.shape[2], -1)
    out[:, 1:, :8] = out[:, 1:, :8].roll(1, 1)
    return out


@op
def swin_relative_index(q, k, v):
    axis = torch.arange(7)
    at = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    relative = (at[:, :, None] - at[:, None, :]).permute(1, 2, 0).contiguous()
    relative[:, :, 0] += 6
    relative[:, :, 1] += 6
    relative[:, :, 0] *= 13
    return relative.sum(-1)


def _tensors(n: int, b: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(n)
    return [torch.randn(b, 3, n, 8) for _ in range(3)]


@pytest.mark.parametrize("name", OPS)
def test_op(name: str) -> None:
    traced, other = _tensors(12), _tensors(20)
    graph = compile(OPS[name]).trace(*traced)
    for inputs in (traced, other):
        found, expected = tree_leaves(run_graph(graph, inputs)), tree_leaves(OPS[name](*inputs))
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-5, atol=1e-5)
