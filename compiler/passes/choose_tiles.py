"""Choose how many queries and keys a tile holds.

before::

    attn.attend over "b < B, h < H, i < N" ... normaliser softmax

after, for ``choose-tiles{target=cpu-avx512}``::

    attn.attend over "b < B, h < H, i < N" ... normaliser softmax tiles "64 x 128"

A call of a few queries gets a low tile, and guards keep calls of more away from it; see :mod:`.low_tiles`.

For an ``attn.attend_gradient`` they are the rows of a task and the step of its loop: its kernels go both ways, some
over queries with a loop over keys, some over keys with a loop over queries.

Legality: none needed; tiles say how, not what.  An op that has tiles keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from ...ir import attn
from ...ir.expr import Expr
from ...ir.gradient import AttendGradientOp
from ..analysis.cost import choose_gradient_tiles, choose_tiles, device
from ..analysis.space import ChoiceError, read_choices
from .common import attends, change_attends, work_of
from .image_rows import in_lines
from .low_tiles import low_tile
from .rewriting import replace


@dataclass(frozen=True)
class ChooseTiles(ModulePass):
    """Options: ``target`` is the device; ``rows`` and ``keys`` override the choice where they are not 0.

    ``names`` and ``values`` are the sizes of the call at hand.
    ``choice`` and ``gradient_choice`` are texts of :mod:`..analysis.space`: the tiles of every attention, or of every
    gradient, that has none yet; one for all of them, or one for each in order.
    """

    name = "choose-tiles"
    target: str = "cpu-avx512"
    rows: int = 0
    keys: int = 0
    choice: str = ""
    gradient_choice: str = ""
    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        forced = _Forced("choice", self.choice)
        sizes = dict(zip(self.names, self.values, strict=True))

        def choose(attend: attn.AttendOp, facts: tuple[Expr, ...]) -> list[Expr]:
            if attend.tiles is not None:
                return []
            tiles, guards = forced.next(), list[Expr]()
            if tiles is None and sizes and not self.rows:
                tiles, guards = low_tile(attend, facts, sizes, self.target)
            self._set(attend, tiles or choose_tiles(work_of(attend, facts), self.target))
            return guards

        change_attends(op, choose)
        forced.finish()
        forced = _Forced("gradient_choice", self.gradient_choice)
        for gradient in open_gradients(op):
            self._set(gradient, forced.next() or _for_gradient(gradient, self.target))
        forced.finish()

    def _set(self, op: attn.AttendOp | AttendGradientOp, tiles: tuple[int, int]) -> None:
        replace(op, op.rebuilt(tiles=(self.rows or tiles[0], self.keys or tiles[1])))


def open_attends(module: ModuleOp) -> list[tuple[attn.AttendOp, tuple[Expr, ...]]]:
    """Attentions whose tiles are to be chosen, with the facts of their functions."""
    return [(attend, facts) for attend, facts in attends(module) if attend.tiles is None]


def open_gradients(module: ModuleOp) -> list[AttendGradientOp]:
    """Gradients whose tiles are to be chosen."""
    return [op for op in module.walk() if isinstance(op, AttendGradientOp) and op.tiles is None]


class _Forced:
    """Choices that an option gives, one after the other."""

    def __init__(self, option: str, text: str):
        self.option, self.text = option, text
        self.choices = read_choices(text)
        self.taken = 0

    def next(self) -> tuple[int, int] | None:
        """The tiles of the next attention; None without the option."""
        if not self.choices:
            return None
        self.taken += 1
        if len(self.choices) == 1:
            return self.choices[0].tiles
        return self.choices[self.taken - 1].tiles if self.taken <= len(self.choices) else (1, 1)

    def finish(self) -> None:
        """Raise :class:`ChoiceError` if there are not as many as attentions."""
        if self.taken and self.taken != len(self.choices) > 1:
            raise ChoiceError(
                f"option {self.option!r} has {len(self.choices)} choices for {self.taken} attentions: {self.text!r}; "
                "give one for each, or one for all"
            )


def _for_gradient(op: AttendGradientOp, target: str) -> tuple[int, int]:
    return choose_gradient_tiles(work_of(op), target, [] if device(target).is_gpu else in_lines(op))
