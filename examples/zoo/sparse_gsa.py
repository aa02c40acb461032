"""SparseGSA of DLGSANet: attention between channels whose weights are a ReLU of cosines that nothing normalises.

Li, Pan, Tang, Dong: DLGSANet: Lightweight Dynamic Local and Global Self-Attention Networks for Image Super-Resolution,
2023 (arXiv 2301.02031), section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "channel"


@attnc.compile
def sparse_gsa(x: Tensor, pointwise: Tensor, depthwise: Tensor, temperature: Tensor, project: Tensor) -> Tensor:
    """``x`` (B, C, H, W); ``temperature`` (heads, 1, 1)."""
    heads, (b, c, h, w) = temperature.shape[0], x.shape
    qkv = F.conv2d(F.conv2d(x, pointwise), depthwise, padding=1, groups=3 * c)
    q, k, v = (t.reshape(b, heads, c // heads, h * w) for t in qkv.chunk(3, dim=1))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    attention = F.relu((q @ k.transpose(-2, -1)) * temperature)
    out = (attention @ v).reshape(b, c, h, w)
    return F.conv2d(out, project)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, c, heads, size = (2, 12, 3, 6) if small else (1, 90, 6, 64)
    x, project = torch.randn(b, c, size, size), torch.randn(c, c, 1, 1) / c**0.5
    pointwise, depthwise = torch.randn(3 * c, c, 1, 1) / c**0.5, torch.randn(3 * c, 1, 3, 3) / 3
    return {"sparse_gsa": (x, pointwise, depthwise, 1 + torch.rand(heads, 1, 1), project)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
