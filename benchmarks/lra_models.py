"""The models of the Long Range Arena, by the functions of the zoo, at the widths of its text task."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attnc

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "zoo"))

HEADS, WIDTH = 4, 64
Inputs = Callable[[Tensor, Tensor, Tensor, Callable[..., Tensor]], tuple[Any, ...]]


@dataclass(frozen=True)
class Model:
    """``file.function`` of the zoo; ``pairs`` are those that eager keeps at once, for each of queries x keys."""

    name: str
    function: str
    score: float  # average accuracy on the tasks, Tay et al. 2020, table 1
    pairs: int
    inputs: Inputs

    def compiled(self) -> Any:
        if self.function == "dense":
            return dense
        file, _, function = self.function.partition(".")
        found = getattr(importlib.import_module(file), function)
        return attnc.compile(found, fallback="silent")  # some have no softmax to fuse

    def arguments(self, length: int) -> tuple[Any, ...]:
        """Random inputs of one length; all that are floating take gradients."""
        generator = torch.Generator().manual_seed(0)

        def tensor(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        q, k, v = (tensor(1, HEADS, length, WIDTH) for _ in range(3))
        made = self.inputs(q, k, v, tensor)
        return tuple(x.requires_grad_() if _floating(x) else x for x in made)

    def eager_bytes(self, length: int) -> int:
        return self.pairs * HEADS * length**2 * 4


@attnc.compile
def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The Transformer that all are compared with."""
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def _floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _drawn(blocks: int) -> Tensor:
    """Three random blocks for every block, beside its neighbours and both ends."""
    u = torch.arange(blocks)
    taken = ((u[:, None] - u[None, :]).abs() <= 1) | (u == 0) | (u == blocks - 1)
    lots = torch.rand(HEADS, blocks, blocks, generator=torch.Generator().manual_seed(0))
    drawn = lots.masked_fill(taken, -1.0).topk(3, dim=-1).indices
    drawn[:, [0, -1]] = 0
    return drawn


MODELS = (
    Model("Transformer", "dense", 54.39, 5, lambda q, k, v, t: (q, k, v)),
    Model("Local", "local_attention.blocks", 46.06, 0, lambda q, k, v, t: (q, k, v, 50)),
    Model("Linear", "linear_transformer.bidirectional", 50.55, 0, lambda q, k, v, t: (q, k, v)),
    Model("Reformer", "reformer.lsh", 50.67, 0, lambda q, k, v, t: (q, v, t(1, WIDTH, 5), 64)),
    Model("Sparse", "sparse_transformer.merged", 51.24, 8, lambda q, k, v, t: (q, k, v, 64, 8)),
    Model("Linformer", "linformer.shared", 51.36, 0, lambda q, k, v, t: (q, k, v, t(q.shape[2], 32))),
    Model("Sinkhorn", "sinkhorn_transformer.sorted_blocks", 51.39, 0,
          lambda q, k, v, t: (q, k, v, t(HEADS, WIDTH, q.shape[2] // 64) / 64, 64, 7)),
    Model("Performer", "performer.favor", 51.41, 0, lambda q, k, v, t: (q, k, v, t(256, WIDTH))),
    Model("Synthesizer", "synthesizer.factorised", 52.88, 4,
          lambda q, k, v, t: (v, t(HEADS, q.shape[2], 8), t(HEADS, 8, q.shape[2]))),
    Model("Longformer", "longformer.window_and_globals", 53.46, 7,
          lambda q, k, v, t: (q, k, v, *(t(*q.shape) for _ in range(3)), torch.tensor([0]), 512)),
    Model("BigBird", "bigbird.gathered", 55.01, 0, lambda q, k, v, t: (q, k, v, _drawn(q.shape[2] // 64), 64)),
)  # fmt: skip
