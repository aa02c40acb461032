"""What a notebook shows for a lowered function and for its explanation."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from . import tables

if TYPE_CHECKING:
    from ..explain import Explanation
    from ..lowered import Lowered

_STYLE = "white-space: pre; overflow-x: auto; font-size: 0.85em"


def explanation(e: Explanation) -> str:
    """The verdict, the cost table, and the whole page under a fold."""
    verdict = "fused" if e.fused else "<strong>not fused</strong>"
    head = (
        f"<p><strong>{html.escape(e.name)}</strong>: {verdict}, {html.escape(e.backend)} ({html.escape(e.target)})</p>"
    )
    sees = "".join(f"<li>{html.escape(k.name)} sees {html.escape(k.pattern)}</li>" for k in e.kernels)
    return f"<div>{head}<ul>{sees}</ul>{tables.cost(e)}{_fold('explanation', str(e))}</div>"


def lowered(low: Lowered) -> str:
    """The stages that need no compiler, each under a fold."""
    stages = [("what was traced", "capture"), ("what is computed", "attn"), ("how it is computed", "tile")]
    return explanation(low.explain()) + "".join(_fold(title, low.ir(stage)) for title, stage in stages)


def _fold(title: str, text: str) -> str:
    return f'<details><summary>{title}</summary><pre style="{_STYLE}">{html.escape(text)}</pre></details>'
