"""Raising: from a traced graph to the ``attn`` dialect.

Every traced value is seen as a scalar term of its index (:mod:`.values`), which removes views, masks and
arithmetic as spellings; the matcher (:mod:`.match`) then looks for one structure, a sum of weights times values
whose normaliser sums the same weights.  What is not that structure stays with PyTorch, with a note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..graph import Graph
from .composite import expand_composites
from .contract import Contractions
from .distribute import distribute
from .match import Matcher
from .notes import EagerNote
from .partition import partition
from .values import Values

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

__all__ = ["EagerNote", "Raised", "raise_graph"]


@dataclass(frozen=True)
class Raised:
    """The raised function, and what in it stays eager."""

    module: ModuleOp
    notes: list[EagerNote]


def raise_graph(graph: Graph) -> Raised:
    """Find the attentions of ``graph``.  May add guards to it."""
    from .emit import Emitter

    values = Values(graph)
    expand_composites(values)
    matcher = Matcher(values, Contractions(values))
    distribute(graph, values, matcher)
    parts = partition(graph, values, matcher)
    values.refresh()
    return Raised(Emitter(graph, values).module(parts), parts.notes)
