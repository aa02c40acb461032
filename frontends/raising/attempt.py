"""What an attempt to read an attention assumed about sizes is forgotten when the attempt fails.

A guard that nothing relies on costs a compilation for each new size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import UnknownSizeError
from .terms import NoMatch
from .values import Values


@contextmanager
def attempt(values: Values, *memos: dict[Any, Any]) -> Iterator[None]:
    """Undo the guards that were added within, and forget what was found under them, if it ends in :class:`NoMatch`."""
    graph = values.graph
    before = list(graph.guards), list(graph.value_guards), dict(graph.aliases), set(graph.exact)
    memos = (*memos, *values.memos)
    lengths = [len(m) for m in memos]
    try:
        yield
    except (NoMatch, UnknownSizeError) as error:
        if before[:2] != (graph.guards, graph.value_guards):
            graph.guards[:], graph.value_guards[:] = before[:2]
            graph.aliases, graph.exact = before[2:]
            for memo, length in zip(memos, lengths, strict=True):
                while len(memo) > length:
                    memo.popitem()
            values.refresh()
        if isinstance(error, UnknownSizeError):
            raise NoMatch(error.reason, attention=True) from None
        raise
