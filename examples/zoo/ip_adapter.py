"""IP-Adapter: image tokens read a text prompt and, by a softmax of its own, an image prompt; the two results are added.

Ye, Zhang, Liu, Han, Yang: IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models, 2023
(arXiv 2308.06721), section 3.2.2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "cross"


def _heads(x: Tensor, heads: int) -> Tensor:
    b, n, c = x.shape
    return x.view(b, n, heads, c // heads).transpose(1, 2)


@attnc.compile
def ip_adapter(q: Tensor, k_text: Tensor, v_text: Tensor, k_image: Tensor, v_image: Tensor, w_out: Tensor) -> Tensor:
    """Projected tokens, (B, tokens, channels)."""
    heads, scale = 8, 0.6
    b, n, c = q.shape
    q = _heads(q, heads)
    text = F.scaled_dot_product_attention(q, _heads(k_text, heads), _heads(v_text, heads))
    text = text.transpose(1, 2).reshape(b, n, c)
    image = F.scaled_dot_product_attention(q, _heads(k_image, heads), _heads(v_image, heads))
    image = image.transpose(1, 2).reshape(b, n, c)
    return (text + scale * image) @ w_out


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, n, c = (2, 49, 40) if small else (2, 4096, 320)  # the widest layer of Stable Diffusion 1.5, with guidance
    k_text, v_text = torch.randn(2, b, 77, c)
    k_image, v_image = torch.randn(2, b, 4, c)
    return {"ip_adapter": (torch.randn(b, n, c), k_text, v_text, k_image, v_image, torch.randn(c, c) / c**0.5)}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
