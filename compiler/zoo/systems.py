"""Finding the systems of the zoo and reading what their files say.

A file is one system: a docstring (name and sentence, then the source), ``PATTERN``, compiled functions,
``example_inputs(small)`` with the arguments of each function, and ``EAGER`` where a part stays with PyTorch.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import nearest
from ..targets import UsageError, load_module

BESIDE_PACKAGE = Path(__file__).parents[2] / "examples" / "zoo"


class ZooError(UsageError):
    """A zoo that is not where it was looked for, or a file in it that is not a system."""


@dataclass(frozen=True)
class System:
    """One file of the zoo."""

    name: str
    path: Path
    title: str  # "Swin Transformer"
    sentence: str  # what its attention does
    source: str  # authors, title, year, sections
    notes: str
    pattern: str
    eager: str  # why a part stays with PyTorch; empty where everything is fused
    module: ModuleType

    def inputs(self, small: bool = False) -> dict[str, tuple[Any, ...]]:
        """The arguments of each function, by its name."""
        return self.module.example_inputs(small=small)

    def function(self, name: str) -> Any:
        """A compiled function of the file."""
        found = getattr(self.module, name, None)
        if not callable(getattr(found, "eager", None)):
            raise ZooError(f"{self.path}: example_inputs() names {name}, which is no compiled function of that file")
        return found


def folder(path: str | Path | None = None) -> Path:
    """Where the zoo is: ``path``, or examples/zoo beside the package."""
    found = BESIDE_PACKAGE if path is None else Path(path)
    if not files(found):
        hint = "give the folder with --path" if path is None else "--path names examples/zoo of a checkout"
        raise ZooError(f"there is no zoo in {found}: the systems come with the sources, not with the package; {hint}")
    return found


def files(place: Path) -> list[Path]:
    """The files of systems in a folder."""
    return sorted(p for p in place.glob("*.py") if not p.name.startswith("_"))


def find(name: str, path: str | Path | None = None) -> Path:
    """The file of one system: its name, or a path to it."""
    if name.endswith(".py"):
        return Path(name)
    known = {p.stem: p for p in files(folder(path))}
    if name not in known:
        raise ZooError(f"the zoo has no system {name!r}{nearest(name, known)}")
    return known[name]


def load(path: Path) -> System:
    """Import a file and read what it says about itself."""
    module = load_module(path)
    title, sentence, source, notes = read_docstring(inspect.getdoc(module) or "", path)
    for needed in ("PATTERN", "example_inputs"):
        if not hasattr(module, needed):
            raise ZooError(f"{path} is not a system of the zoo: it defines no {needed}")
    eager = str(getattr(module, "EAGER", ""))
    return System(path.stem, path, title, sentence, source, notes, str(module.PATTERN), eager, module)


def read_docstring(text: str, path: Path) -> tuple[str, str, str, str]:
    """Name, sentence, source and notes of a docstring ``Name: sentence.``, blank line, source, and maybe notes."""
    first, *rest = (" ".join(part.split()) for part in text.split("\n\n"))
    title, colon, sentence = first.partition(": ")
    if not colon or not sentence.endswith(".") or not rest or not re.search(r"\b(19|20)\d\d\b", rest[0]):
        raise ZooError(
            f"{path}: the docstring must be 'System name: what its attention does.', a blank line, and the source: "
            "authors, title, year and section"
        )
    return title, sentence[0].upper() + sentence[1:], rest[0], " ".join(rest[1:])
