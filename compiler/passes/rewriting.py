"""Replacing operations without losing where they came from."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import Rewriter

from ...ir.attributes import LINES


def replace(old: Operation, new: Operation, results: Sequence[SSAValue] | None = None) -> None:
    """Put ``new`` in the place of ``old``; the user's lines and value names carry over (xDSL drops them)."""
    for name in ("at", LINES):
        if name in old.attributes:
            new.attributes.setdefault(name, old.attributes[name])
    results = new.results if results is None else results
    for before, after in zip(old.results, results, strict=True):
        after.name_hint = after.name_hint or before.name_hint
    Rewriter.replace_op(old, new, list(results))
