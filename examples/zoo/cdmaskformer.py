"""CDMaskFormer: object queries weigh the rows and the columns of a map apart, and see the product of both.

Ma, Wu, Lian, Zhang, Song: Rethinking Remote Sensing Change Detection With A Mask View, 2024 (arXiv 2406.15320),
section III; its axial form after scene-guided axial attention.

Projections and positions are in the arguments. The masked form hides keys by a predicted mask, except in rows that it
would leave empty.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "cross, axial, masked"


@attnc.compile
def axial(q_row: Tensor, q_col: Tensor, k_row: Tensor, k_col: Tensor, v: Tensor, gate: Tensor) -> Tensor:
    """Queries (B, H, Nq, d), maps (B, H, height, width, d), and a gate (B, H, d) of the scene."""
    scale = v.shape[-1] ** -0.5
    gate = torch.sigmoid(gate)[:, :, None]
    along_x = k_row.mean(2) * gate  # (B, H, width, d)
    along_y = k_col.mean(3) * gate
    alpha = torch.softmax(q_row @ along_x.transpose(-1, -2) * scale, dim=-1)
    beta = torch.softmax(q_col @ along_y.transpose(-1, -2) * scale, dim=-1)
    columns = torch.einsum("bhqy,bhyxd->bhqxd", beta, v)
    return torch.einsum("bhqx,bhqxd->bhqd", alpha, columns)


@attnc.compile
def masked(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    """Queries (B, H, Nq, d), keys (B, H, N, d), and the keys that the last layer's masks hide, (B, Nq, N)."""
    hidden = hidden & ~hidden.all(-1, keepdim=True)
    attn = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return attn.masked_fill(hidden[:, None], float("-inf")).softmax(-1) @ v


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, nq, height, width, d = (1, 2, 3, 4, 5, 6) if small else (2, 8, 10, 128, 128, 32)
    queries = torch.randn(b, h, nq, d), torch.randn(b, h, nq, d)
    maps = [torch.randn(b, h, height, width, d) for _ in range(3)]
    keys, values = (torch.randn(b, h, height * width, d) for _ in range(2))
    logits = torch.randn(b, nq, height * width) - 2
    logits[0, 0] = -9.0  # nothing found
    return {
        "axial": (*queries, *maps, torch.randn(b, h, d)),
        "masked": (torch.randn(b, h, nq, d), keys, values, logits.sigmoid() < 0.15),
    }


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
