"""ALiBi: causal attention whose scores fall linearly with distance, at a slope of its own for each head.

Press, Smith, Lewis: Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation, 2021
(arXiv 2108.12409), section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal"


def _slopes(heads: int) -> Tensor:
    """A geometric sequence; for other numbers than powers of two, every second one of the next sequence as well."""
    power = 2 ** (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    more = [2 ** (-8 * (h + 1) / (2 * power)) for h in range(0, 2 * (heads - power), 2)]
    return torch.tensor(slopes + more)


@attnc.compile
def alibi(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    n, m = q.shape[-2], k.shape[-2]
    future = torch.triu(torch.full((n, m), float("-inf"), device=q.device), 1 + m - n)
    bias = slopes.view(-1, 1, 1) * torch.arange(m, device=q.device).view(1, 1, m)  # a row's constant changes nothing
    scores = torch.baddbmm(
        (bias + future).repeat(q.shape[0], 1, 1), q.flatten(0, 1), k.flatten(0, 1).mT, alpha=q.shape[-1] ** -0.5
    )
    return (scores.softmax(-1) @ v.flatten(0, 1)).view_as(q)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d = (2, 6, 45, 8) if small else (1, 8, 2048, 128)
    q, k, v = torch.randn(3, b, h, n, d)
    return {"alibi": (q, k, v, _slopes(h))}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
