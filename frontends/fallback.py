"""What happens when something runs in eager PyTorch: a warning, an error, or nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..ir.expr import evaluate, parse
from .errors import FallbackError, FallbackWarning, GradientNotAvailable
from .graph import Graph
from .locate import with_text
from .specialise import largest_bytes

if TYPE_CHECKING:
    from ..compiler.plan import Note

MODES = ("warn", "error", "silent")


def report(mode: str, graph: Graph, notes: Sequence[Note], values: Mapping[str, Any]) -> None:
    """Warn about, or refuse, ops that stay eager and need memory for queries x keys."""
    if mode == "silent":
        return
    lines = {str(node.location): node.location for node in reversed(graph.nodes)}
    for note in notes:
        if not note.quadratic:
            continue
        where = lines.get(note.at, graph.location)
        memory = _memory(note.bytes, values)
        text = f"{with_text(where)}: {note.op} in {graph.name} stays eager: {note.reason}; {memory}"
        if mode == "error":
            raise FallbackError(f"{text} (fallback='error')")
        warnings.warn_explicit(text, FallbackWarning, where.file, where.line)


def report_backward(mode: str, graph: Graph, values: Mapping[str, Any]) -> None:
    """The same for a gradient, which this version computes by running the function as written."""
    if mode == "silent":
        return
    size, node = largest_bytes(graph, values)
    where = node.location if node is not None else graph.location
    text = (
        f"{with_text(where)}: the gradient of {graph.name} is computed by eager PyTorch, which this version of attnc "
        f"does not replace; it allocates {readable(size)} for the result of {node.op if node else 'an op'} alone, and "
        "keeps several of that size"
    )
    if mode == "error":
        raise GradientNotAvailable(f"{text} (fallback='error'); call it under torch.no_grad(), or use fallback='warn'")
    warnings.warn_explicit(text, FallbackWarning, where.file, where.line)


def _memory(size: str, values: Mapping[str, Any]) -> str:
    try:
        return f"it allocates {readable(int(evaluate(parse(size), values)))}"
    except KeyError:  # a size known only when an eager op returns
        return f"it allocates {size} bytes"


def readable(size: float) -> str:
    """``4831838208`` as ``4.5 GiB (4,831,838,208 bytes)``."""
    exact = f"{int(size):,} bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return exact if unit == "bytes" else f"{size:.1f} {unit} ({exact})"
        size /= 1024
    return exact
