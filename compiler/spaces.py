"""The tuning space of a program: what its attentions leave open, and how long each choice is predicted to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ir import attn
from ..ir.gradient import AttendGradientOp
from .analysis import cost, space
from .analysis.devices import Device, device
from .analysis.space import Choice
from .analysis.work import Work
from .passes.choose_tiles import open_attends, open_gradients
from .passes.common import work_of

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from .lowered import Lowered


@dataclass(frozen=True)
class Space:
    """The attentions of a program, in the order in which ``option`` gives their choices.

    ``candidates`` are those of each of them, best predicted first.  A program may have none: what has few rows, say,
    gets its tiles from another pass.
    """

    option: str  # of ``attnc.compile``: "choice", or "gradient_choice"
    device: Device
    sizes: dict[str, int]
    works: tuple[Work, ...]
    candidates: tuple[tuple[Choice, ...], ...]

    def predicted(self, choices: Sequence[Choice], threads: int = 1) -> float:
        """Seconds of all attentions with these choices: one for each, or one for all."""
        if len(choices) == 1:
            choices = [*choices] * len(self.works)
        return sum(self._seconds(w, c, threads) for w, c in zip(self.works, choices, strict=True))

    def _seconds(self, work: Work, choice: Choice, threads: int) -> float:
        return cost.predicted(work, self.device, choice, self.sizes, self.option == space.GRADIENT, threads)


def space_of(lowered: Lowered) -> Space:
    """The tuning space of a lowered function, or of its gradient (``lowered.backward()``), for its sizes."""
    module = _before(lowered)
    on = device(str(lowered.request.pipeline_options()["target"]))
    sizes = {k: v for k, v in lowered.hints.items() if isinstance(v, int)}
    gradient = lowered.gradient is not None
    if gradient:
        works = tuple(work_of(op, attn.func_of(module).facts) for op in open_gradients(module))
    else:
        works = tuple(work_of(op, facts) for op, facts in open_attends(module))
    found = Space(space.GRADIENT if gradient else space.FORWARD, on, sizes, works, ())
    ranked = tuple(
        tuple(sorted(space.candidates(w, on, gradient), key=lambda c: (found._seconds(w, c, 1), c))) for w in works
    )
    return Space(found.option, on, sizes, works, ranked)


def own_choices(lowered: Lowered) -> tuple[Choice, ...]:
    """The tiles that the compiler chooses by itself, one for each attention of the space."""
    kind = AttendGradientOp if lowered.gradient else attn.AttendOp
    modules = _before(lowered), lowered.after("choose-tiles")
    pairs = zip(*([op for op in m.walk() if isinstance(op, kind)] for m in modules), strict=True)
    return tuple(Choice(*b.tiles.data) for a, b in pairs if a.tiles is None and b.tiles is not None)


def _before(lowered: Lowered) -> ModuleOp:
    """The module as the pass that chooses tiles gets it."""
    names = [p.name for p in lowered.request.passes()]
    return lowered.after(names[names.index("choose-tiles") - 1])
