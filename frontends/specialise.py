"""One specialisation: a trace, its plan, and the test whether they serve a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..ir.expr import OPS, Expr, Load, Var, evaluate, parse, rewrite
from .graph import Graph, Node, map_arg

if TYPE_CHECKING:
    from ..compiler.plan import Plan

Getter = Callable[[Mapping[str, Any]], Any]
_FUNCTIONS = {name: fold for name, (_, fold) in OPS.items() if name.isidentifier()}


@dataclass(eq=False)
class Specialisation:
    """A compiled function for one kind of call."""

    graph: Graph
    plan: Plan
    captures: list[tuple[Getter, torch.dtype, int, torch.device]]
    watched: list[tuple[str, Getter, Any]]
    notes: list[Any]
    holds: Callable[[Sequence[Any]], bool]
    pick: Callable[[list[torch.Tensor], Sequence[Any]], Any] = field(init=False)

    def __post_init__(self) -> None:
        self.pick = _picker(self.graph)
        self.scalars = [n for n, node in enumerate(self.graph.inputs) if not node.shape]
        self.scalar_types = {n: self.graph.inputs[n].dtype for n in self.scalars}

    def leaves(self, arguments: Mapping[str, Any], leaves: list[Any]) -> list[Any] | None:
        """Arguments and captured tensors of a call, or None if this specialisation does not serve it."""
        for _, getter, value in self.watched:
            try:
                now = getter(arguments)
            except (AttributeError, KeyError, IndexError, TypeError, ValueError):
                return None
            if now is not value and (type(now) is not type(value) or now != value):
                return None
        if self.captures:
            leaves = list(leaves)
            for getter, dtype, rank, device in self.captures:
                try:
                    tensor = getter(arguments)
                except (AttributeError, KeyError, IndexError, TypeError, ValueError):
                    return None
                if not isinstance(tensor, torch.Tensor) or tensor.dtype != dtype or tensor.dim() != rank or tensor.device != device:
                    return None
                leaves.append(tensor)
        return leaves if self.holds(leaves) else None

    def run(self, leaves: Sequence[Any]) -> list[torch.Tensor]:
        """The tensors that the function returns."""
        tensors = list(leaves)
        for n in self.scalars:
            if not isinstance(tensors[n], torch.Tensor):
                device = self.graph_device(tensors)
                tensors[n] = torch.tensor(tensors[n], dtype=self.scalar_types[n], device=device)
        return self.plan.run(tensors)

    @staticmethod
    def graph_device(tensors: Sequence[Any]) -> torch.device:
        return next(x.device for x in tensors if isinstance(x, torch.Tensor) and x.dim())

    def sizes(self, leaves: Sequence[Any]) -> dict[str, Any]:
        """Size symbols and scalar arguments of a call."""
        return call_values(self.graph, leaves)


def call_values(graph: Graph, leaves: Sequence[Any]) -> dict[str, Any]:
    values = {name: int(leaves[n].shape[axis]) for name, (n, axis) in graph.bindings.items()}
    for n, node in enumerate(graph.inputs):
        if not node.shape and not isinstance(leaves[n], torch.Tensor):
            values[node.name] = leaves[n]
    return values


def guard_function(graph: Graph, guards: Sequence[Expr]) -> Callable[[Sequence[Any]], bool]:
    """All guards as one Python function of the leaves of a call."""
    lines = ["def holds(x):"]
    for n, node in enumerate(graph.inputs):
        names = {axis: name for name, (m, axis) in graph.bindings.items() if m == n}
        if names:
            lines.append(f"    {', '.join(names[a] for a in sorted(names))}, = x[{n}].shape")
        else:
            lines.append(f"    {node.name} = x[{n}]")
    plain = [rewrite(g, lambda e: Var(e.tensor, "float") if isinstance(e, Load) and not e.index else None) for g in guards]
    lines.append(f"    return {' and '.join(f'({g})' for g in plain) or 'True'}")
    space: dict[str, Any] = dict(_FUNCTIONS, inf=float("inf"), nan=float("nan"))
    exec("\n".join(lines), space)
    return space["holds"]


def all_guards(graph: Graph, plan: Plan) -> list[Expr]:
    return list(dict.fromkeys([*graph.guards, *graph.value_guards, *map(parse, plan.guards)]))


def _picker(graph: Graph) -> Callable[[list[torch.Tensor], Sequence[Any]], Any]:
    """From the plan's results to what the user's function returns."""
    outputs = graph.outputs
    if isinstance(outputs, Node):
        return lambda results, leaves: results[0]
    if isinstance(outputs, tuple) and all(isinstance(x, Node) for x in outputs) and not hasattr(outputs, "_fields"):
        return lambda results, leaves: tuple(results)

    def pick(results: list[torch.Tensor], leaves: Sequence[Any]) -> Any:
        waiting = iter(results)
        values = call_values(graph, leaves)

        def leaf(x: Any) -> Any:
            if isinstance(x, Node):
                return next(waiting)
            if isinstance(x, Expr):
                bare = rewrite(x, lambda e: Var(e.tensor, "float") if isinstance(e, Load) else None)
                return evaluate(bare, values)
            return x

        return map_arg(outputs, leaf)

    return pick


def largest_bytes(graph: Graph, values: Mapping[str, Any]) -> tuple[int, Node | None]:
    """The biggest value that eager PyTorch makes in this call."""
    best: tuple[int, Node | None] = (0, None)
    for node in graph.nodes:
        try:
            size = node.dtype.itemsize
            for e in node.shape:
                size *= int(evaluate(e, values))
        except (KeyError, TypeError):
            continue
        if node.op not in ("expand", "permute", "reshape", "unsqueeze", "squeeze", "slice", "select") and size > best[0]:
            best = (size, node)
    return best
