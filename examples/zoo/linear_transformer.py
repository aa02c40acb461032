"""Linear Transformer: weights are products of feature maps, so sums over keys are taken once for all queries.

Katharopoulos, Vyas, Pappas, Fleuret: Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention,
2020 (arXiv 2006.16236), section 3.  Causal sums are taken chunk by chunk: inside a chunk pair by pair, before it as one
matrix.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "linear, causal"
EAGER = "there is no softmax: the sums over keys are matrix products and prefix sums, which PyTorch computes"
EPS, CHUNK = 1e-6, 64


@attnc.compile
def bidirectional(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    kv = torch.einsum("bhnd,bhne->bhde", k, v)
    z = 1 / (torch.einsum("bhnd,bhd->bhn", q, k.sum(dim=2)) + EPS)
    return torch.einsum("bhnd,bhde,bhn->bhne", q, kv, z)


@attnc.compile
def causal(q: Tensor, k: Tensor, v: Tensor, chunk: int) -> Tensor:
    b, heads, n, d = q.shape
    q, k, v = ((x if x is v else F.elu(x) + 1).view(b, heads, n // chunk, chunk, -1) for x in (q, k, v))
    values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)  # the last one counts the weights
    state = torch.einsum("bhcjd,bhcje->bhcde", k, values).cumsum(dim=2)
    before = F.pad(state, (0, 0, 0, 0, 1, 0))[:, :, :-1]
    inside = torch.einsum("bhcid,bhcjd->bhcij", q, k).tril()
    sums = inside @ values + q @ before
    return (sums[..., :-1] / (sums[..., -1:] + EPS)).reshape(b, heads, n, -1)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    heads, n, d, chunk = (2, 60, 6, 12) if small else (8, 4096, 64, CHUNK)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    return {"bidirectional": (q, k, v), "causal": (q, k, v, chunk)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
