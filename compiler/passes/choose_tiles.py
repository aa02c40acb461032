"""Choose how many queries and keys a tile holds.

before::

    attn.attend over "b < B, h < H, i < N" ... normaliser softmax

after, for ``choose-tiles{target=cpu-avx512}``::

    attn.attend over "b < B, h < H, i < N" ... normaliser softmax tiles "64 x 128"

For an ``attn.attend_gradient`` they are the rows of a task and the step of its loop: its kernels go both ways, some
over queries with a loop over keys, some over keys with a loop over queries.

Legality: none needed; tiles say how, not what.  An op that has tiles keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ...ir import attn
from ...ir.expr import Expr
from ...ir.gradient import AttendGradientOp
from ..analysis.cost import Work, choose_gradient_tiles, choose_tiles, device
from .common import attends, work_of
from .image_rows import in_lines
from .rewriting import replace

STACK = 2 << 20  # bytes of a task
LEAST_ROWS = 16  # a vector of the widest machine


@dataclass(frozen=True)
class ChooseTiles(ModulePass):
    """Options: ``target`` is the device; ``rows`` and ``keys`` override the choice where they are not 0."""

    name = "choose-tiles"
    target: str = "cpu-avx512"
    rows: int = 0
    keys: int = 0

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for attend, facts in attends(op):
            self._choose(attend, facts, choose_tiles)
        for gradient in [o for o in op.walk() if isinstance(o, AttendGradientOp)]:
            self._choose(gradient, (), partial(_for_gradient, gradient))

    def _choose(
        self,
        op: attn.AttendOp | AttendGradientOp,
        facts: tuple[Expr, ...],
        choose: Callable[[Work, str], tuple[int, int]],
    ) -> None:
        if op.tiles is None:
            rows, keys = self.rows, self.keys
            if not (rows and keys):
                rows, keys = choose(work_of(op, facts), self.target)
                if not device(self.target).is_gpu:
                    rows, keys = _fitting(rows, keys, op)
            replace(op, op.rebuilt(tiles=(self.rows or rows, self.keys or keys)))


def _fitting(rows: int, keys: int, op: attn.AttendOp | AttendGradientOp) -> tuple[int, int]:
    """A smaller tile where very wide rows, as in attention between channels, would outgrow a task's stack."""
    copies = 3 if isinstance(op, attn.AttendOp) else 6  # tiles as wide as the features, that a kernel holds at once
    width = max(op.width.data, op.value_width.data) * 8
    while rows > LEAST_ROWS and (copies * rows + keys) * width > STACK:
        rows = max(LEAST_ROWS, rows // 2 // LEAST_ROWS * LEAST_ROWS)
    while keys > LEAST_ROWS and (copies * rows + keys) * width > STACK:
        keys = max(LEAST_ROWS, keys // 2 // LEAST_ROWS * LEAST_ROWS)
    return rows, keys


def _for_gradient(op: AttendGradientOp, work: Work, target: str) -> tuple[int, int]:
    return choose_gradient_tiles(work, target, [] if device(target).is_gpu else in_lines(op))
