"""What may be chosen: the candidates of a program, those that the cost model finds hopeless left out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..lowering import load_backend

if TYPE_CHECKING:
    from ..lowered import Lowered

MOST = 96  # candidates
WORSE = 3.0  # times the best prediction, at which a candidate is left out
DEFAULT = ""  # the text of the compiler's own choice


@dataclass(frozen=True)
class Candidate:
    """Options of ``attnc.compile`` that force a choice, and the predicted seconds.  None: the compiler's own."""

    options: tuple[tuple[str, str], ...]
    predicted: float

    @property
    def text(self) -> str:
        """The choice in one line."""
        return choice_text(dict(self.options))

    @cached_property
    def params(self) -> dict[str, str]:
        """What the choice is made of, by name: a search looks for what good ones have in common."""
        found: dict[str, str] = {}
        for _, value in self.options:
            for n, part in enumerate(value.split(";")):
                for pair in part.split(","):
                    name, _, number = pair.partition("=")
                    found[f"{name.strip()}{n or ''}"] = number.strip()
        return found


@dataclass(frozen=True)
class Space:
    """The candidates in the order of their predictions; the compiler's own choice is ``default``, in words ``own``."""

    candidates: tuple[Candidate, ...]
    own: str
    considered: int  # before the cost model left some out

    def by_text(self, text: str) -> Candidate | None:
        return next((c for c in self.candidates if c.text == text), None)

    @cached_property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """The values of each parameter."""
        names = sorted({name for c in self.candidates for name in c.params})
        values = {name: {c.params.get(name, "") for c in self.candidates} for name in names}
        return {name: tuple(sorted(found, key=lambda v: (len(v), v))) for name, found in values.items()}


def choice_text(options: Mapping[str, str]) -> str:
    """Options that force a choice, in one line; empty for the compiler's own."""
    return " | ".join(value for _, value in sorted(options.items()))


def space_of(lowered: Lowered) -> Space:
    """The candidates for a lowered function, or for its gradient, with the sizes that it was lowered with."""
    from ..analysis.space import text_of
    from ..spaces import own_choices
    from ..spaces import space_of as tiles_of

    tiles = tiles_of(lowered)
    launches = _launches(lowered)
    each = max(2, int(MOST ** (1 / max(1, len(tiles.works)))))
    found: list[Candidate] = []
    for combined in itertools.product(*(c[: MOST if len(tiles.works) == 1 else each] for c in tiles.candidates)):
        seconds = tiles.predicted(combined) if combined else 0.0
        forced = {tiles.option: text_of(combined)} if combined else {}
        found += [Candidate(tuple(sorted((forced | launch).items())), seconds) for launch in launches]
    found.sort(key=lambda c: c.predicted)  # stable: of equals, the backend's order
    kept = [c for c in found if c.predicted <= WORSE * found[0].predicted][:MOST]
    own = text_of(own_choices(lowered))
    return Space(tuple(c for c in kept if c.options and c.text != own), own, len(found))


def _launches(lowered: Lowered) -> list[dict[str, str]]:
    """Every way to launch the kernels, the backend's own first."""
    from ...ir.tile import kernels_of

    backend = load_backend(lowered.backend)
    kernels = kernels_of(lowered.module("tile")).values()
    ways = [way for kernel in kernels for way in backend.launches(kernel, lowered.target)]
    found = ["", *(",".join(f"{name}={value}" for name, value in sorted(way.items())) for way in ways)]
    return [{"launch": text} if text else {} for text in dict.fromkeys(found)]
