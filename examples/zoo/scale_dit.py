"""Scale-DiT: image tokens see a window, the text, and a coarse copy of the image near them, in one softmax.

Zhang, Tai: Scale-DiT: Ultra-High-Resolution Image Generation with Hierarchical Local Attention, 2025
(arXiv 2510.16325), section 3.

Queries and keys hold their rotary positions already. Windows are the paper's: a token sees the window that it lies in.
Coarse tokens see the coarse tokens two steps around them; the window that a coarse token belongs to must be the own
one or a neighbour in the order of windows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "windowed, global, hierarchical"


def _window_first(x: Tensor, height: int, width: int, w: int) -> Tensor:
    """Tokens (B, H, height * width, D) reordered window by window."""
    b, h, _, d = x.shape
    x = x.reshape(b, h, height // w, w, width // w, w, d)
    return x.permute(0, 1, 2, 4, 3, 5, 6).reshape(b, h, height * width, d)


@attnc.compile
def hierarchical_local(q: Tensor, k: Tensor, v: Tensor, text: int, side: int, w: int, ratio: int) -> Tensor:
    """Tokens of the text, of a square image, and of the same image ``ratio`` times coarser: (B, H, N, D)."""
    low, fine = side // ratio, side * side
    lengths = text, fine, low * low

    def ordered(x: Tensor) -> Tensor:
        words, image, coarse = x.split(lengths, dim=2)
        return torch.cat([words, _window_first(image, side, side, w), coarse], dim=2)

    t, s = torch.arange(fine), torch.arange(low * low)
    window = t // (w * w)  # window first
    of_low = s // low * ratio // w * (side // w) + s % low * ratio // w
    image_to_image = window[:, None] == window[None, :]
    image_to_low = (window[:, None] - of_low[None, :]).abs() <= 1
    apart = torch.maximum((s[:, None] // low - s // low).abs(), (s[:, None] % low - s % low).abs())

    def no(rows: int, columns: int) -> Tensor:
        return torch.zeros(rows, columns, dtype=torch.bool)

    mask = torch.cat([
        torch.cat([~no(text, text), ~no(text, fine), no(text, low * low)], 1),
        torch.cat([~no(fine, text), image_to_image, image_to_low], 1),
        torch.cat([no(low * low, text), no(low * low, fine), apart <= 2], 1),
    ])  # fmt: skip
    return F.scaled_dot_product_attention(ordered(q), ordered(k), ordered(v), attn_mask=mask)


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    # FLUX's heads at 1024 pixels; at 4096 the mask alone holds 5 billion elements
    b, h, text, side, w, ratio, d = (1, 2, 11, 12, 6, 3, 8) if small else (1, 24, 512, 64, 16, 4, 128)
    n = text + side**2 + (side // ratio) ** 2
    q, k, v = (torch.randn(b, h, n, d) for _ in range(3))
    return {"hierarchical_local": (q, k, v, text, side, w, ratio)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
