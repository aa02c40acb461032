"""Which tuned result serves a call: asked by every build, so nothing here imports what a cached call does not need."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .pattern import Lengths, Pattern, Place, distance, pattern_of
from .records import DIRECTIONS, Record
from .store import Store

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from ..lowering import Request

log = logging.getLogger("attnc")


@dataclass(frozen=True)
class Tuned:
    """A result in force.  ``guards`` are the lengths for which it is the nearest one, if others chose otherwise."""

    record: Record
    guards: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, str]:
        """What the result forces; nothing where the compiler's own choice was best."""
        return self.record.choice


def tuned(
    request: Request,
    graph: str,
    make_module: Callable[[], ModuleOp],
    hints: Mapping[str, Any] | None,
    direction: str,
) -> Tuned | None:
    """The result for a captured graph called with these sizes, of the nearest class of lengths; None if there is none.

    What the user chose by an option is left alone, and so is a compilation for another device than the one at hand.
    """
    if not is_open(request):
        return None
    store = Store(request.settings.cache_dir)
    pattern = known_pattern(store, graph, make_module)
    at = pattern.lengths(hints or {})
    if at is None or not (found := store.of(pattern.digest)):
        return None
    place = place_of(request)
    found = [r for r in found if r.place == place]
    record = nearest(found, direction, at)
    return None if record is None else Tuned(record, guards_of(pattern, found, at) if direction == "forward" else ())


def untuned(
    request: Request, graph: str, make_module: Callable[[], ModuleOp], hints: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """The directions without a result of the very class of a call."""
    if not is_open(request):
        return ()
    store = Store(request.settings.cache_dir)
    pattern = known_pattern(store, graph, make_module)
    at = pattern.lengths(hints or {})
    place = place_of(request)
    found = {r.direction for r in store.of(pattern.digest) if r.lengths == at and r.place == place}
    return () if at is None else tuple(d for d in DIRECTIONS if d not in found)


def is_open(request: Request) -> bool:
    """Is anything left to choose: no option of the user's does, and the device is the one at hand?"""
    settings = request.settings
    chosen = request.pass_options or request.launch or settings.skip or settings.opt_bisect_limit is not None
    return not (chosen or request.target or settings.autotune == "off" or request.backend == "reference")


def place_of(request: Request) -> Place:
    """Where results of this compilation hold."""
    return Place.of(request.backend, request.device, str(request.pipeline_options()["target"]))


def known_pattern(store: Store, graph: str, make_module: Callable[[], ModuleOp]) -> Pattern:
    """The pattern of a graph; the graph is raised only if nobody has asked before."""
    pattern = store.pattern(graph)
    if pattern is None:
        pattern = pattern_of(make_module())
        store.note(graph, pattern)
    return pattern


def nearest(records: Sequence[Record], direction: str, at: Lengths) -> Record | None:
    """The result of the class nearest to ``at``; the smaller class wins a tie."""
    mine = [r for r in records if r.direction == direction and len(r.lengths) == len(at)]
    return min(mine, key=lambda r: (distance(r.lengths, at), r.lengths), default=None)


def guards_of(pattern: Pattern, records: Sequence[Record], at: Lengths) -> tuple[str, ...]:
    """Conditions on lengths that hold at ``at`` and only where the same results are nearest, in either direction.

    A plan serves every size that its guards allow, and the plan of a gradient all that the forward plan serves.
    """

    def answer(cell: Lengths) -> tuple[dict[str, str], ...]:
        found = (nearest(records, direction, cell) for direction in ("forward", "backward"))
        return tuple(r.choice if r else {} for r in found)

    classes = [sorted({r.lengths[axis] for r in records}) for axis in range(len(at))]
    low, high = [c[0] for c in classes], [c[-1] for c in classes]  # beyond them, all distances grow alike
    box = [[min(max(e, a), b)] * 2 for e, a, b in zip(at, low, high, strict=True)]
    same = answer(tuple(a for a, _ in box))
    sides = [(n, s, (-1, 1)[s], (low, high)[s][n]) for n in range(len(at)) for s in (0, 1)]
    while sides:  # one step of each in turn: lengths of queries and keys mostly grow together
        for axis, side, step, end in list(sides):
            grown = [range(a, b + 1) for a, b in box]
            grown[axis] = range(box[axis][side] + step, box[axis][side] + step + 1)
            if box[axis][side] == end or any(answer(cell) != same for cell in itertools.product(*grown)):
                sides.remove((axis, side, step, end))
            else:
                box[axis][side] += step
    guards: list[str] = []
    for axis, name in enumerate(pattern.sizes):
        (a, b) = box[axis]
        guards += [f"{name} > {1 << (a - 1) if a else 0}"] if a > low[axis] else []
        guards += [f"{name} <= {1 << b}"] if b < high[axis] else []
    return tuple(guards)
