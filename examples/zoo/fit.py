"""FIT: groups of data tokens attend to themselves, and exchange with the others by a few latents for each group.

Chen, Li: FIT: Far-reaching Interleaved Transformers, 2023 (arXiv 2305.12689), sections 2.1 to 2.3.

Queries, keys and values are given. In the autoregressive form, the latents that a group reads are those of the group
before; the first group reads zeros, which take part in its softmax as projected, layer-normalised zeros do: alike.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "hierarchical, block, cross, causal"


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    logits = torch.einsum("...qhd,...khd->...hqk", q * q.shape[-1] ** -0.5, k)
    if mask is not None:
        logits = logits + (1.0 - mask.to(logits.dtype)) * -1e9
    return torch.einsum("...hqk,...khd->...qhd", torch.softmax(logits, -1), v)


@attnc.compile
def local(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Data tokens of one group, (B, groups, n, H, d), causal."""
    n = q.shape[2]
    return _attend(q, k, v, torch.ones(n, n).tril())


@attnc.compile
def read(latent_q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The latents of a group, (B, groups, m, H, d), look at its data."""
    return _attend(latent_q, k, v)


@attnc.compile
def exchange(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All latents look at those of their own and of earlier groups."""
    b, groups, m, h, d = q.shape
    mask = torch.ones(groups, groups).tril().repeat_interleave(m, 0).repeat_interleave(m, 1)
    q, k, v = (x.reshape(b, groups * m, h, d) for x in (q, k, v))
    out = _attend(q, k, v, mask)
    return out.reshape(b, groups, m, h, d)


@attnc.compile
def write(q: Tensor, latent_k: Tensor, latent_v: Tensor) -> Tensor:
    """The data of a group look at the latents of the group before."""
    k, v = (torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1) for x in (latent_k, latent_v))
    return _attend(q, k, v)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, groups, n, m, h, d = (1, 3, 13, 3, 2, 6) if small else (1, 32, 256, 32, 8, 64)
    data = tuple(torch.randn(b, groups, n, h, d) for _ in range(3))
    latent = tuple(torch.randn(b, groups, m, h, d) for _ in range(3))
    return {"local": data, "read": (latent[0], *data[1:]), "exchange": latent, "write": (data[0], *latent[1:])}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
