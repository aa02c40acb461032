"""SinkLoRA: shifted groups without a wrap, and the first tokens as sinks that every token sees.

Zhang: SinkLoRA: Enhanced Efficiency and Chat Capabilities for Long-Context Large Language Models, 2024
(arXiv 2406.05678), section 3.  The sinks count once where a group holds them already.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "block, global, causal"
SINKS = 4


@attnc.compile
def sink_fixed_shift(q: Tensor, k: Tensor, v: Tensor, group: int) -> Tensor:
    b, heads, n, d = q.shape
    pos = torch.arange(n)
    plain = pos // group
    moved = (pos + group // 2) // group
    groups = torch.stack([plain] * (heads // 2) + [moved] * (heads - heads // 2))
    same = groups.unsqueeze(-1) == groups.unsqueeze(-2)
    sink = (pos < SINKS).view(1, 1, n)
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    bias = torch.zeros(heads, n, n).masked_fill(~((same | sink) & causal), float("-inf"))
    return F.softmax(q @ k.transpose(-2, -1) / math.sqrt(d) + bias, dim=-1) @ v


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    # 8192 tokens in groups of a quarter; 4 of the 32 heads, so that the masks of eager fit
    heads, n, d, group = (4, 61, 6, 16) if small else (4, 8192, 128, 2048)
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, n, d, generator=random)
    return {"sink_fixed_shift": (q, k, v, group)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
