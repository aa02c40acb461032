"""Swin Transformer: windows of an image attend to themselves, and in every other layer the windows are shifted.

Liu, Lin, Cao, Hu, Wei, Zhang, Lin, Guo: Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, 2021
(arXiv 2103.14030), sections 3.1 and 3.2.

The mask of shifted windows adds -100 and not -inf, as the authors' models were trained.
"""

from __future__ import annotations

from typing import Any

import torch
from _zoo import run
from torch import Tensor

import attnc

PATTERN = "windowed, block"


def _windows(x: Tensor, m: int) -> Tensor:
    b, height, width, c = x.shape
    x = x.view(b, height // m, m, width // m, m, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, m * m, c)


def _image(windows: Tensor, m: int, height: int, width: int) -> Tensor:
    x = windows.view(-1, height // m, width // m, m, m, windows.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, windows.shape[-1])


def _relative_position(m: int) -> Tensor:
    coords = torch.stack(torch.meshgrid(torch.arange(m), torch.arange(m), indexing="ij")).flatten(1)
    relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0) + m - 1
    return relative[..., 0] * (2 * m - 1) + relative[..., 1]


def _window_attention(qkv: Tensor, table: Tensor, m: int, mask: Tensor | None = None) -> Tensor:
    windows, n, c = qkv.shape
    q, k, v = qkv.reshape(windows, n, 3, heads := table.shape[1], -1).permute(2, 0, 3, 1, 4)
    attn = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    attn = attn + table[_relative_position(m).view(-1)].view(n, n, heads).permute(2, 0, 1)
    if mask is not None:
        attn = (attn.view(-1, mask.shape[0], heads, n, n) + mask[:, None]).view(-1, heads, n, n)
    return (attn.softmax(-1) @ v).transpose(1, 2).reshape(windows, n, c // 3)


@attnc.compile
def regular(qkv: Tensor, table: Tensor, m: int) -> Tensor:
    _, height, width, _ = qkv.shape
    return _image(_window_attention(_windows(qkv, m), table, m), m, height, width)


@attnc.compile
def shifted(qkv: Tensor, table: Tensor, m: int) -> Tensor:
    _, height, width, _ = qkv.shape
    shift = m // 2
    rows, columns = ((t >= len(t) - m).long() + (t >= len(t) - shift) for t in map(torch.arange, (height, width)))
    region = _windows((3 * rows[:, None] + columns[None, :]).view(1, height, width, 1), m).squeeze(-1)
    mask = torch.where(region[:, None, :] != region[:, :, None], -100.0, 0.0)
    qkv = torch.roll(qkv, (-shift, -shift), (1, 2))
    out = _image(_window_attention(_windows(qkv, m), table, m, mask), m, height, width)
    return torch.roll(out, (shift, shift), (1, 2))


def example_inputs(small: bool = False) -> dict[str, tuple[Any, ...]]:
    torch.manual_seed(0)
    b, size, heads, d, m = (1, (9, 6), 2, 5, 3) if small else (4, (56, 56), 3, 32, 7)  # Swin-T, first stage
    args = torch.randn(b, *size, 3 * heads * d), torch.randn((2 * m - 1) ** 2, heads), m
    return {"regular": args, "shifted": args}


def main() -> None:
    run(globals())


if __name__ == "__main__":
    main()
