"""Runs a traced graph call by call, checking each shape and type against what the tracer foresaw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from attnc.frontends.graph import Graph, Node, map_arg
from attnc.ir.calls import compile_call
from attnc.ir.expr import Expr, evaluate


def run_graph(graph: Graph, inputs: Sequence[torch.Tensor]) -> Any:
    """The outputs of ``graph`` for these tensors, which may have other sizes than the traced ones."""
    env: dict[str, Any] = {s: inputs[n].shape[axis] for s, (n, axis) in graph.bindings.items()}
    env["device"] = inputs[0].device
    values: dict[Node, Any] = dict(zip(graph.inputs, inputs, strict=True))
    for guard in graph.guards:
        assert evaluate(guard, env), f"guard {guard}"
    for node in graph.nodes:
        operands = {f"x{n}": values[x] for n, x in enumerate(node.inputs)}
        value = compile_call(node.call)(env | operands)
        values[node] = value
        if isinstance(value, torch.Tensor):
            late = {
                e.name: size
                for e, size in zip(node.shape, value.shape, strict=True)
                if getattr(e, "name", None) in graph.late
            }
            env.update(late)
            assert tuple(value.shape) == tuple(evaluate(e, env) for e in node.shape), str(node)
            assert value.dtype == node.dtype, str(node)
    return map_arg(
        graph.outputs, lambda x: values[x] if isinstance(x, Node) else evaluate(x, env) if isinstance(x, Expr) else x
    )
