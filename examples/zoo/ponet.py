"""PoNet: one query sees all tokens, and a token adds what it finds there to maxima of its segment and its neighbours.

Tan, Chen, Ye, Wang, Zheng, Ling, Wang, Yu: PoNet: Pooling Network for Efficient Token Mixing in Long Sequences, 2021
(arXiv 2110.02442), section 3.

Segments are of equal length; keys are values.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "global, pooling"


@attnc.compile
def pooled(q: Tensor, k: Tensor, o: Tensor, segment: Tensor, local: Tensor, length: int) -> Tensor:
    """Projections (B, H, N, d)."""
    b, h, n, d = q.shape
    query = q.mean(dim=2, keepdim=True)
    scores = torch.matmul(query, k.transpose(-1, -2)) / d**0.5
    everything = torch.matmul(F.softmax(scores, dim=-1), k)
    of_segment = segment.reshape(b, h, n // length, length, d).amax(dim=3)
    of_segment = of_segment.repeat_interleave(length, dim=2)
    nearby = F.max_pool2d(local, kernel_size=(3, 1), stride=1, padding=(1, 0))
    return (everything + of_segment) * o + nearby


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d, length = (2, 2, 21, 5, 7) if small else (4, 12, 4096, 64, 64)
    return {"pooled": (*(torch.randn(b, h, n, d) for _ in range(5)), length)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
