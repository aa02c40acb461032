"""Run a traced graph op by op in PyTorch: the function as written, on tensors given one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..ir.calls import compile_call
from .graph import Graph, Node


def replay(graph: Graph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors that the traced function returns.  PyTorch may differentiate, batch or trace what happens here."""
    env: dict[str, Any] = {name: inputs[n].shape[axis] for name, (n, axis) in graph.bindings.items()}
    env["device"] = next(x.device for x in inputs if x.dim())
    values: dict[Node, Any] = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        value = compile_call(node.call)(env | {f"x{n}": values[x] for n, x in enumerate(node.inputs)})
        values[node] = value
        if isinstance(value, torch.Tensor):  # some sizes are known only now
            for e, size in zip(node.shape, value.shape, strict=True):
                if getattr(e, "name", None) in graph.late:
                    env[e.name] = size  # type: ignore[attr-defined]
    return [values[node] for node in graph.output_nodes()]
