"""SpecInfer: the tokens of a speculated tree see the verified text and, in the tree, themselves and their ancestors.

Miao, Oliaro, Zhang, et al.: SpecInfer: Accelerating Generative Large Language Model Serving with Tree-based Speculative
Inference and Verification, 2023 (arXiv 2305.09781), section 4.2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "causal, data-dependent"


@attnc.compile
def spec_infer(q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, ancestors: Tensor) -> Tensor:
    """``ancestors`` (B, T, T): does token ``t`` come from token ``s`` of its tree?"""
    b, h, t, d = q.shape
    text = torch.ones(b, t, k_cache.shape[2], dtype=torch.bool, device=q.device)
    mask = torch.cat([text, ancestors], dim=-1)[:, None]
    keys, values = torch.cat([k_cache, k], dim=2), torch.cat([v_cache, v], dim=2)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)


def _ancestors(parents: list[int]) -> Tensor:
    mask = torch.eye(len(parents), dtype=torch.bool)
    for token, parent in enumerate(parents):
        if parent >= 0:
            mask[token] |= mask[parent]
    return mask


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, n, t, d = (2, 3, 37, 7, 8) if small else (4, 32, 2048, 64, 128)
    tree = _ancestors([-1, *((token - 1) // 2 for token in range(1, t))])
    cache, new = torch.randn(2, b, h, n, d), torch.randn(3, b, h, t, d)
    return {"spec_infer": (new[0], *cache, *new[1:], tree.expand(b, t, t))}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
