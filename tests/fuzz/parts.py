"""The pieces of a random program: text, and the tensors that it reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """A tensor beyond query, key and value; ``shape`` is an expression of the sizes, ``kind`` how it is filled."""

    name: str
    shape: str
    kind: str


@dataclass(frozen=True)
class Part:
    """An expression and the tensors that it reads."""

    text: str
    tensors: tuple[Tensor, ...] = ()


INPUTS = """
    def tensor(kind, shape):
        if kind == "bool":
            return torch.rand(shape, generator=generator) < 0.7
        if kind == "ids":
            return torch.arange(shape[-1]).div(7, rounding_mode="floor").expand(shape)
        if kind in ("lengths", "small"):
            return torch.randint(0, m + 2 if kind == "lengths" else 9, shape, generator=generator)
        if kind == "order":
            return torch.randperm(shape[0], generator=generator)
        wide = layout == "wide rows" and shape  # rows that are cut out of wider ones
        x = torch.randn((*shape[:-1], shape[-1] + 3) if wide else shape, generator=generator, dtype=torch.float64)
        x = x.abs() + 0.5 if kind == "positive" else x
        x = x.to(dtype)[..., : shape[-1]] if wide else x.to(dtype)
        if layout == "heads last" and len(shape) > 2:
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        return torch.stack([x, x], -1)[..., 0] if layout == "every other" else x
"""
