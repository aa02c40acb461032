"""Choose how many queries and keys a tile holds.

before::

    attn.attend over "b < B, h < H, i < N" ... normaliser softmax

after, for ``choose-tiles{target=cpu-avx512}``::

    attn.attend over "b < B, h < H, i < N" ... normaliser softmax tiles "64 x 128"

Legality: none needed; tiles say how, not what.  An op that has tiles keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ..analysis.cost import choose_tiles
from .common import attends, work_of
from .rewriting import replace


@dataclass(frozen=True)
class ChooseTiles(ModulePass):
    """Options: ``target`` is the device; ``rows`` and ``keys`` override the choice where they are not 0."""

    name = "choose-tiles"
    target: str = "cpu-avx512"
    rows: int = 0
    keys: int = 0

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for attend, facts in attends(op):
            if attend.tiles is None:
                rows, keys = self.rows, self.keys
                if not (rows and keys):
                    rows, keys = choose_tiles(work_of(attend, facts), self.target)
                replace(attend, attend.rebuilt(tiles=(self.rows or rows, self.keys or keys)))
