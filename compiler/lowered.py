"""Lowered: one program at every stage of its compilation, produced when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from xdsl.dialects.builtin import ModuleOp

    from .explain import Explanation


@dataclass
class Lowered:
    """What ``fn.lower(...)`` returns."""

    key: str  # text of the captured graph
    make_module: Callable[[], ModuleOp]
    backend: str  # "cpu", "triton" or "reference"; never "auto"
    dtype: str
    device: torch.device
    options: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None  # such as "sm_90"; None asks the backend
    hints: Mapping[str, int] = field(default_factory=dict)  # size symbol -> value at hand
    eager: Any = ()  # what the frontend keeps eager and why

    def ir(self, stage: str) -> str:
        """The program's text after ``stage``, one of :data:`STAGES`."""
        raise NotImplementedError

    def module(self, stage: str) -> ModuleOp:
        """A fresh copy of the module after ``"attn"`` or ``"tile"``."""
        raise NotImplementedError

    def after(self, name: str) -> str:
        """The program's text after the pass called ``name``."""
        raise NotImplementedError

    def source(self) -> str:
        """Source of the generated kernels in the backend's language, and of the plan that launches them."""
        raise NotImplementedError

    def explain(self) -> Explanation:
        """What was recognised, how it is tiled, what it costs, what stays eager and why."""
        from .explain import explain

        return explain(self)
