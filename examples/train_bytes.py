"""Train a small byte-level language model on real text, once with attnc and once in eager PyTorch.

Every layer mixes three kinds of causal heads over a context of 4,096 bytes: a window with learned slopes, a dilated
window, and a window that also sees the first bytes.  Both models start from the same weights and read the same bytes;
their steps take turns.  The text is Python's language reference, which comes with Python.

    python examples/train_bytes.py --steps 50
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnc

WINDOW = 128
DILATION, TAPS = 8, 64
FIRST = 64  # bytes that the global heads always see
HEADS = 1  # of each kind
WIDTH, LAYERS = 96, 2
BYTES = 256

Attention = tuple[Callable[..., Tensor], ...]  # one function for each kind of head


def distance(q: Tensor, k: Tensor) -> Tensor:
    """How far each key lies behind each query."""
    return torch.arange(q.shape[-2])[:, None] - torch.arange(k.shape[-2])[None, :]


def attend(scores: Tensor, v: Tensor, live: Tensor) -> Tensor:
    return scores.masked_fill(~live, float("-inf")).softmax(-1) @ v


@attnc.compile(fallback="error")
def windowed(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    """The last WINDOW bytes, nearer ones favoured by a learned slope for each head."""
    back = distance(q, k)
    scores = q @ k.mT / q.shape[-1] ** 0.5 - slopes[:, None, None] * back
    return attend(scores, v, (back >= 0) & (back < WINDOW))


@attnc.compile(fallback="error")
def dilated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every DILATION-th byte back, TAPS of them."""
    back = distance(q, k)
    return attend(q @ k.mT / q.shape[-1] ** 0.5, v, (back >= 0) & (back < DILATION * TAPS) & (back % DILATION == 0))


@attnc.compile(fallback="error")
def anchored(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The last WINDOW bytes and the first ones of the context."""
    back = distance(q, k)
    first = torch.arange(k.shape[-2])[None, :] < FIRST
    return attend(q @ k.mT / q.shape[-1] ** 0.5, v, (back >= 0) & ((back < WINDOW) | first))


COMPILED: Attention = (windowed, dilated, anchored)
EAGER: Attention = tuple(f.eager for f in COMPILED)  # type: ignore[attr-defined]


class Layer(nn.Module):
    """Mixed heads, then a feed-forward network."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.feed = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.slopes = nn.Parameter(0.5 ** torch.arange(HEADS) / 2)

    def heads(self, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        """The heads of each kind, (B, H, N, D)."""
        found = []
        for n, kind in enumerate(attention):
            own = slice(n * HEADS, (n + 1) * HEADS)
            found.append(kind(q[:, own], k[:, own], v[:, own], *([self.slopes] if n == 0 else [])))
        return torch.cat(found, 1)

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        q, k, v = self.qkv(self.before(x)).unflatten(-1, (3, len(attention) * HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(self.heads(q, k, v, attention).transpose(1, 2).flatten(2))
        return x + self.feed(self.between(x))


class Model(nn.Module):
    """The scores of the next byte after every byte."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, BYTES)

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        x = self.embedding(x)
        for layer in self.layers:
            x = layer(x, attention)
        return self.head(self.norm(x))


@dataclass
class Run:
    """A model in training."""

    name: str
    model: Model
    attention: Attention
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = copy.deepcopy(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3, betas=(0.9, 0.98), eps=1e-6)

    def backward(self, text: Tensor) -> float:
        """Set the gradients; the loss in nats a byte."""
        scores = self.model(text[:, :-1], self.attention)
        loss = F.cross_entropy(scores.flatten(0, 1), text[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        return loss.item()

    def step(self, text: Tensor) -> None:
        start = time.perf_counter()
        self.losses.append(self.backward(text))
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)


def passages(context: int, seed: int) -> Iterator[Tensor]:
    """Random places in the text, the same for everyone with this seed."""
    text = torch.tensor(list("\n\n".join(topics[name] for name in sorted(topics)).encode()))
    if context >= len(text):
        raise SystemExit(f"--context {context}: the text has {len(text):,} bytes")
    generator = torch.Generator().manual_seed(seed)
    while True:
        start = int(torch.randint(len(text) - context, (), generator=generator))
        yield text[None, start : start + context + 1]


def initial(seed: int) -> Model:
    torch.manual_seed(seed)
    return Model()


if __name__ == "__main__":
    from _train_bytes_report import main

    main()
