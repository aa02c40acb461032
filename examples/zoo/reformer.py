"""Reformer: tokens are sorted by a hash of their queries; chunks of them see themselves and the chunk before.

Kitaev, Kaiser, Levskaya: Reformer: The Efficient Transformer, 2020 (arXiv 2001.04451), section 2.  Queries and keys are
one tensor.  A token sees itself only where it sees nothing else; hashing rounds are merged by their log-sum-exp.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "data-dependent, block, causal"
EAGER = "hashing, sorting and the way back are PyTorch's; the attention inside chunks is fused"
CHUNK, ROUNDS, BUCKETS = 64, 4, 64


@attnc.compile
def lsh(qk: Tensor, v: Tensor, rotations: Tensor, chunk: int) -> Tensor:
    """``rotations`` are random, (rounds, D, buckets / 2)."""
    b, heads, n, d = qk.shape
    rounds = rotations.shape[0]
    turned = torch.einsum("bhnd,rdm->bhrnm", qk, rotations)
    bucket = torch.cat([turned, -turned], dim=-1).argmax(dim=-1)
    order = (bucket * n + torch.arange(n)).argsort(dim=-1)
    back = order.argsort(dim=-1)

    def chunks(x: Tensor) -> Tensor:
        x = x.unsqueeze(2).expand(-1, -1, rounds, -1, -1).gather(3, order.unsqueeze(-1).expand(-1, -1, -1, -1, d))
        return x.unflatten(3, (-1, chunk))

    def with_previous(x: Tensor, dim: int) -> Tensor:
        return torch.cat([x.roll(1, dims=3), x], dim=dim)

    q, values = chunks(qk), with_previous(chunks(v), 4)
    keys = with_previous(chunks(F.normalize(qk, dim=-1) * d**0.5), 4)
    at = order.unflatten(3, (-1, chunk))
    seen_at = with_previous(at, 4)
    scores = torch.einsum("bhrcid,bhrcjd->bhrcij", q, keys) * d**-0.5
    scores = scores.masked_fill(seen_at.unsqueeze(-2) > at.unsqueeze(-1), float("-inf"))
    scores = scores.masked_fill(seen_at.unsqueeze(-2) == at.unsqueeze(-1), -1e5)
    total = torch.logsumexp(scores, dim=-1, keepdim=True)
    out = torch.einsum("bhrcij,bhrcjd->bhrcid", (scores - total).exp(), values)
    out, total = out.flatten(3, 4), total.flatten(3, 5)
    out = out.gather(3, back.unsqueeze(-1).expand(-1, -1, -1, -1, d))
    weight = F.softmax(total.gather(3, back), dim=2)
    return (out * weight.unsqueeze(-1)).sum(dim=2)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    heads, n, d, chunk, rounds, buckets = (2, 60, 6, 12, 2, 4) if small else (8, 4096, 64, CHUNK, ROUNDS, BUCKETS)
    random = torch.Generator().manual_seed(0)
    qk, v = torch.randn(2, 1, heads, n, d, generator=random)
    return {"lsh": (qk, v, torch.randn(rounds, d, buckets // 2, generator=random), chunk)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
