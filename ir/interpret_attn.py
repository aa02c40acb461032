"""The meaning of the ops of dialect ``attn`` on PyTorch tensors.

The gradient of an attention is PyTorch's own, through the dense meaning: independent of every formula that the
compiler derives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from xdsl.ir import SSAValue

from .attn import Attention, tensor_type
from .calls import vector_jacobian
from .dtypes import accumulator, to_torch
from .expr import evaluate
from .gradient import AttendGradientOp, ScatterOp
from .tensors import Env, Tensor, indices, points, read, scatter, tensor_value


def empty(value: SSAValue, sizes: Mapping[str, int], like: Sequence[Tensor]) -> Tensor:
    """A new tensor of the type of ``value``."""
    return torch.empty(shape_of(value, sizes), dtype=to_torch(tensor_type(value).element), device=like[0].device)


def shape_of(value: SSAValue, sizes: Mapping[str, int]) -> list[int]:
    """The sizes of a tensor."""
    return [int(evaluate(s, sizes)) for s in tensor_type(value).shape]


def attend(
    op: Attention,
    args: Sequence[Tensor],
    out: Tensor,
    lse: Tensor,
    sizes: Mapping[str, int],
    weights: Tensor | None = None,
) -> list[Tensor]:
    """The results of an attention on query, keys, values and captured tensors, written into ``out`` and the rest."""
    count = len(op.keys)
    query, keys, values = args[0], args[1 : 1 + count], args[1 + count : 1 + 2 * count]
    captured = dict(zip((n.data for n in op.capture_names), args[1 + 2 * count :], strict=True))
    dtype = to_torch(accumulator(tensor_type(op.query).element))
    out, lse = out.zero_(), lse.fill_(-torch.inf)
    row = op.domain[-1]
    d = torch.arange(op.width.data)
    e = torch.arange(op.value_width.data)
    for point in points(op.domain[:-1], sizes):
        env: Env = {**sizes, **point}
        i = torch.arange(int(evaluate(row.extent, env)))
        q = read(query, indices(op.query_map.data, env, {row.name: i, "d": d})).to(dtype)
        scores, v = [], []
        for source, key, value in zip(op.source_list, keys, values, strict=True):
            j = torch.arange(int(evaluate(source.extent, env)))
            k = read(key, indices(source.key_map, env, {source.key: j, "d": d})).to(dtype)
            dot = q @ k.T
            names = env | {row.name: i[:, None], source.key: j[None, :], "dot": dot, "d": d}
            score = tensor_value(source.score.body, names, captured, dtype).expand(len(i), len(j))
            mask = tensor_value(source.mask, names, captured, dtype)
            scores.append(torch.where(mask, score, -torch.inf if op.normalised else 0.0))
            v.append(read(value, indices(source.value_map, env, {source.key: j, "e": e})).to(dtype))
        s = torch.cat(scores, -1)
        at = tuple(indices(op.out_map.data, env, {row.name: i, "e": e}))
        if not op.normalised:
            out[at] = (s @ torch.cat(v, 0)).to(out.dtype)
            lse[tuple(indices(op.lse_map.data, env, {row.name: i}))] = 0.0
            continue
        # not exp(s - logsumexp(s)), which has no digits left for a row of scores around a fill of -1e9
        peak = s.amax(-1, keepdim=True) if s.shape[-1] else s.new_full((len(i), 1), -torch.inf)
        shift = torch.where(peak == -torch.inf, 0.0, peak).detach()
        p = torch.exp(s - shift)
        norm = p.sum(-1, keepdim=True)
        dead = norm == 0.0
        norm = torch.where(dead, 1.0, norm)
        total = torch.where(dead, -torch.inf, shift + norm.log())[:, 0]
        p = p / norm
        out[at] = (p @ torch.cat(v, 0)).to(out.dtype)
        lse[tuple(indices(op.lse_map.data, env, {row.name: i}))] = total.to(lse.dtype)
        if weights is not None:
            peak = shift * math.log2(math.e) if op.units and op.units.data == "base2" else shift
            for index, x in zip(op.weights_maps, (peak, torch.where(dead, 0.0, 1.0 / norm)), strict=True):
                weights[tuple(indices(index, env, {row.name: i}))] = x[:, 0].to(weights.dtype)
    return [out, lse] if weights is None else [out, lse, weights]


def attend_gradient(op: AttendGradientOp, values: Mapping[SSAValue, Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
    """The gradients that ``op`` wants, given the values of its operands."""
    with torch.enable_grad():
        copies = {name: values[v].detach().clone() for name, v in op.by_name.items()}
        for name in op.wanted_list:
            copies[name].requires_grad_()
        rows = values[op.rows]
        out, lse = torch.empty_like(values[op.out]), torch.empty_like(rows[0] if op.units else rows)
        results = attend(op, list(copies.values()), out, lse, sizes)
    pairs = [
        (result, values[gradient].to(result.dtype))
        for result, gradient in zip(results, (op.d_out, op.d_lse), strict=True)
        if gradient is not None and result.requires_grad
    ]
    return vector_jacobian(pairs, [copies[name] for name in op.wanted_list])


def scattered(op: ScatterOp, args: Sequence[Tensor], sizes: Mapping[str, int]) -> Tensor:
    """The result of an ``attn.scatter``."""
    captured = dict(zip(op.captured, args[1:], strict=True))
    result = scatter(args[0], op.dims.data, op.index.data, shape_of(op.output, sizes), captured, sizes)
    return result.to(to_torch(tensor_type(op.output).element))
