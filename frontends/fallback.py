"""What happens when something runs in eager PyTorch: a warning, an error, or nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..ir.expr import evaluate, parse
from .errors import FallbackError, FallbackWarning, GradientNotAvailable
from .graph import Graph, Node
from .locate import with_text

if TYPE_CHECKING:
    from ..compiler.plan import Note

MODES = ("warn", "error", "silent")


def report(mode: str, graph: Graph, notes: Sequence[Note], values: Mapping[str, Any]) -> None:
    """Warn about, or refuse, ops that stay eager and need memory for queries x keys: once a line and reason."""
    if mode == "silent":
        return
    lines = {str(node.location): node.location for node in reversed(graph.nodes)}
    groups: dict[tuple[str, str], list[Note]] = {}
    for note in notes:
        if note.quadratic:
            groups.setdefault((note.at, note.reason), []).append(note)
    texts: list[str] = []
    for (at, reason), group in groups.items():
        where = lines.get(at, graph.location)
        ops = ", ".join(dict.fromkeys(note.op for note in group))
        stay = "stays" if len(group) == 1 else "stay"
        text = f"{with_text(where)}: {ops} in {graph.name} {stay} eager: {reason}; {_memory(group, values)}"
        texts.append(text)
        if mode == "warn":
            warnings.warn_explicit(text, FallbackWarning, where.file, where.line)
    if texts and mode == "error":
        raise FallbackError("\n".join(texts) + " (fallback='error')")


def report_backward(mode: str, graph: Graph, values: Mapping[str, Any], why: str) -> None:
    """The same for a gradient that is computed by running the function as written."""
    if mode == "silent":
        return
    size, node = _largest(graph, values)
    where = node.location if node is not None else graph.location
    text = (
        f"{with_text(where)}: the gradient of {graph.name} is computed by eager PyTorch: {why}; it allocates "
        f"{readable(size)} for the result of {node.op if node else 'an op'} alone, and keeps several of that size"
    )
    if mode == "error":
        raise GradientNotAvailable(f"{text} (fallback='error'); call it under torch.no_grad(), or use fallback='warn'")
    warnings.warn_explicit(text, FallbackWarning, where.file, where.line)


def _largest(graph: Graph, values: Mapping[str, Any]) -> tuple[int, Node | None]:
    """The biggest value that eager PyTorch makes in this call."""
    best: tuple[int, Node | None] = (0, None)
    for node in graph.nodes:
        try:
            size = node.dtype.itemsize
            for e in node.shape:
                size *= int(evaluate(e, values))
        except (KeyError, TypeError):
            continue
        if (
            node.op not in ("expand", "permute", "reshape", "unsqueeze", "squeeze", "slice", "select")
            and size > best[0]
        ):
            best = (size, node)
    return best


def _memory(notes: Sequence[Note], values: Mapping[str, Any]) -> str:
    one = "it allocates" if len(notes) == 1 else "they allocate"
    try:
        return f"{one} {readable(sum(int(evaluate(parse(n.bytes), values)) for n in notes))}"
    except KeyError:  # a size known only when an eager op returns
        return f"{one} {' + '.join(n.bytes for n in notes)} bytes"


def readable(size: float) -> str:
    """``4831838208`` as ``4.5 GiB (4,831,838,208 bytes)``."""
    exact = f"{int(size):,} bytes"
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return exact if unit == "bytes" else f"{size:.1f} {unit} ({exact})"
        size /= 1024
    return exact
