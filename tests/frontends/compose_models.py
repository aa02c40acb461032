"""Functions and modules that the tests of composability share; importable by name, so that they can be pickled."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

import attnc

TABLE = torch.linspace(-1, 1, 128)


def qkv(n: int = 12, *, heads: int = 3, grad: bool = False, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    shapes = [(2, heads, n, 8), (2, 3, n, 8), (2, 3, n, 8)]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [x.requires_grad_(grad) for x in made]


def near(n: int, window: int) -> torch.Tensor:
    i = torch.arange(n)
    return (i[:, None] - i[None]).abs() <= window


@attnc.compile(backend="cpu", fallback="silent")
def attend(q, k, v, scale: float = 0.5):
    scores = q @ k.mT * scale + TABLE[: k.shape[-2]]
    return scores.masked_fill(~near(q.shape[-2], 4), float("-inf")).softmax(-1) @ v


def written(q, k, v, scale: float = 0.5):
    return (q @ k.mT * scale).softmax(-1) @ v


class Out(NamedTuple):
    result: torch.Tensor
    rest: dict[str, Any]


class Gain(torch.nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by, self.weight = by, torch.nn.Parameter(torch.rand(3, 1, 1))

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return scores * self.by * self.weight


class Layer(torch.nn.Module):
    """Reads parameters of its own and of a module inside, a number, and a method."""

    def __init__(self, window: int = 3, by: float = 0.5) -> None:
        super().__init__()
        self.bias, self.window = torch.nn.Parameter(torch.rand(3, 1, 1)), window
        self.gain, self.proj = Gain(by), torch.nn.Linear(8, 8)

    def far(self, n: int) -> torch.Tensor:
        return ~near(n, self.window)

    @attnc.compile(backend="cpu", fallback="silent")
    def attend(self, q, k, v, *, shift: float = 0.0):
        i = torch.arange(q.shape[-2])
        scores = self.gain(q @ k.mT) + self.bias * (i[:, None] - i[None]) + shift * i
        return scores.masked_fill(self.far(q.shape[-2]), float("-inf")).softmax(-1) @ v

    def forward(self, q, k, v):
        return self.proj(self.attend(q, k, v, shift=0.01))

    def as_written(self, q, k, v):
        return self.proj(Layer.attend.eager(self, q, k, v, shift=0.01))


def close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def same_gradients(found: torch.Tensor, expected: torch.Tensor, sources: Any, tolerance: float = 1e-3) -> None:
    """Both results and their gradients agree."""
    close(found, expected)
    weight = torch.linspace(-1, 1, found.numel()).view(found.shape).to(found)
    pairs = zip(
        torch.autograd.grad(found, sources, weight), torch.autograd.grad(expected, sources, weight), strict=True
    )
    for a, b in pairs:
        close(a, b, tolerance)
