"""ZeroTuning: causal attention whose weight on the first token is scaled for each head, and each row normalised again.

Han, Cai, Zhang, et al.: ZeroTuning: Unlocking the Initial Token's Power to Enhance Large Language Models Without
Training, 2025 (arXiv 2505.11739), section 4.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal"


@attnc.compile
def zero_tuning(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor) -> Tensor:
    """``gamma`` is a factor for each head; 1 where the head is not tuned."""
    n = q.shape[-2]
    scores = torch.matmul(q, k.transpose(2, 3)) / q.shape[-1] ** 0.5
    scores = scores + torch.full((n, n), float("-inf"), device=q.device).triu(1)
    weights = torch.softmax(scores, dim=-1)
    tuned = weights.clone()
    tuned[..., 0] = weights[..., 0] * gamma[:, None]
    tuned = tuned / tuned.sum(dim=-1, keepdim=True)
    return torch.matmul(tuned, v)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, d = (2, 3, 41, 8) if small else (1, 32, 2048, 128)  # Llama-3.1-8B
    q, k, v = torch.randn(3, b, h, n, d)
    gamma = torch.ones(h)
    gamma[: h // 2] = 0.6
    return {"zero_tuning": (q, k, v, gamma)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
