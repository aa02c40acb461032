"""ACDiT: clean blocks see clean blocks up to themselves, noisy blocks the clean ones before them and themselves.

Hu, Hu, Song, et al.: ACDiT: Interpolating Autoregressive Conditional Modeling and Diffusion Transformer, 2024 (arXiv
2412.07720), section 3.2.  The sequence holds all clean blocks, then all noisy ones.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "block, causal"


@attnc.compile
def acdit(q: Tensor, k: Tensor, v: Tensor, block: int) -> Tensor:
    n = q.shape[-2]
    position = torch.arange(n, device=q.device)
    noisy = position >= n // 2
    number = (position % (n // 2)) // block
    row, column = number[:, None], number[None, :]
    clean_column, noisy_row = ~noisy[None, :], noisy[:, None]
    among_clean = ~noisy_row & clean_column & (column <= row)
    noisy_to_clean = noisy_row & clean_column & (column < row)
    noisy_to_itself = noisy_row & noisy[None, :] & (column == row)
    mask = among_clean | noisy_to_clean | noisy_to_itself
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@attnc.compile
def denoise(q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One noisy block and the clean ones before it, which are kept."""
    keys, values = torch.cat([k_cache, k], dim=-2), torch.cat([v_cache, v], dim=-2)
    return F.scaled_dot_product_attention(q, keys, values)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, h, block, blocks, d = (2, 3, 7, 4, 8) if small else (1, 12, 256, 4, 64)
    q, k, v = torch.randn(3, b, h, 2 * blocks * block, d)
    cache, new = torch.randn(2, b, h, (blocks - 1) * block, d), torch.randn(3, b, h, block, d)
    return {"acdit": (q, k, v, block), "denoise": (new[0], *cache, *new[1:])}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
