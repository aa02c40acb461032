"""``attnc dump --diff``: what passes changed, as a unified diff of the program's text."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import PipelineError, nearest

if TYPE_CHECKING:
    from ..lowered import Lowered

ALL = "all"


def difference(lowered: Lowered, which: str) -> str:
    """Of ``all`` passes that changed something, of one (``dilation``), or from one to another (``attn..dilation``)."""
    texts = dict(_texts(lowered))
    names = list(texts)
    if which == ALL:
        pairs = list(itertools.pairwise(names))
    elif ".." in which:
        first, _, last = which.partition("..")
        pairs = [(_known(first or names[0], names), _known(last or names[-1], names))]
    else:
        at = names.index(_known(which, names))
        if at == 0:
            raise PipelineError(f"{which} is where the passes begin; name one of them: {', '.join(names[1:])}")
        pairs = [(names[at - 1], which)]
    parts = ["".join(_unified(a, b, texts)) for a, b in pairs]
    return "".join(parts) or "// no pass changed anything\n"


def _texts(lowered: Lowered) -> Iterator[tuple[str, str]]:
    from ...ir.text import print_module

    for name, module in lowered.with_lines.items():
        yield name, print_module(module)


def _unified(a: str, b: str, texts: dict[str, str]) -> Iterator[str]:
    before, after = (texts[n].splitlines(keepends=True) for n in (a, b))
    yield from difflib.unified_diff(before, after, f"before {b}" if a != "attn" else "attn", f"after {b}")


def _known(name: str, names: list[str]) -> str:
    if name not in names:
        raise PipelineError(f"--diff: no pass {name!r} ran{nearest(name, names)}; these did: {', '.join(names[1:])}")
    return name
