"""One specialisation: a trace, its plan, and the test whether they serve a call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..compiler.errors import InternalError
from ..compiler.plan import CallStep, LaunchStep, Plan, ReorderStep
from ..ir.calls import draws_random
from ..ir.errors import AttncError
from ..ir.expr import OPS, Expr, Load, Var, evaluate, free_vars, parse, rewrite
from . import autocast
from .errors import UnknownSizeError
from .fallback import report_backward
from .graph import Graph, Location, Node, map_arg
from .locate import with_text

Getter = Callable[[Mapping[str, Any]], Any]
_GONE = (AttributeError, KeyError, IndexError, TypeError, ValueError)  # what a path leads to may not be there any more
_FUNCTIONS = {name: fold for name, (_, fold) in OPS.items() if name.isidentifier()}


@dataclass(eq=False)
class Specialisation:
    """A compiled function for one kind of call.

    ``watched`` are the plain values that the function's code reads from outside, each with its value while tracing;
    ``kinds`` is what the key of the call holds for each argument.
    """

    graph: Graph
    plan: Plan
    captures: list[tuple[Getter, torch.dtype, int, torch.device]]
    watched: list[tuple[str, Getter, Any]]
    kinds: Mapping[str, Hashable]
    device: torch.device
    build_gradient: Callable[[Sequence[int], Sequence[int]], Plan]
    reported: set[str] = field(default_factory=set)  # why gradients are eager
    holds: Callable[[Sequence[Any]], bool] = field(init=False)
    pick: Callable[[Sequence[torch.Tensor], Sequence[Any]], Any] = field(init=False)

    def __post_init__(self) -> None:
        self.guards = list(dict.fromkeys([*self.graph.guards, *self.graph.value_guards, *map(parse, self.plan.guards)]))
        if late := sorted(set().union(*map(free_vars, self.guards)) & self.graph.late):
            raise UnknownSizeError(
                f"the kernel must be chosen before {', '.join(late)} exists, the size of a result that attnc has no "
                "rule for",
                self.graph.location,
            )
        self.holds = _guard_function(self.graph, self.guards)
        # the plan checks types, shapes and facts about sizes by itself, but not the values of Python floats
        self.values_hold = _guard_function(self.graph, self.graph.value_guards) if self.graph.value_guards else None
        self.pick = _picker(self.graph)
        self.scalars = [(n, node.dtype) for n, node in enumerate(self.graph.inputs) if not node.shape]
        self.outside = bool(self.watched or self.captures)
        # all are new memory and floating point: a gradient needs nothing done to them
        made = {o.name: o.dtype for s in self.plan.steps if isinstance(s, LaunchStep) for o in s.outputs}
        self.plain_results = all("float" in made.get(name, "") for name in self.plan.results)
        # without a kernel PyTorch may as well run the function as it is written, and its gradient
        self.fused = any(not isinstance(s, CallStep | ReorderStep) for s in self.plan.steps)
        self.random = any(n.call and draws_random(n.call) for n in self.graph.nodes)
        # by inputs that need a gradient and outputs that have one: the plan, or why there is none
        self.gradients: dict[tuple[tuple[bool, ...], tuple[int, ...]], Plan | str] = {}

    def inputs(self, arguments: Mapping[str, Any], leaves: list[Any]) -> list[Any] | None:
        """Arguments and captured tensors of a call, or None if other values are captured than this was made for."""
        if not self.outside:
            return leaves
        try:
            for _, getter, value in self.watched:
                now = getter(arguments)
                if now is not value and (type(now) is not type(value) or now != value):
                    return None
            if self.captures:
                leaves = list(leaves)
                for getter, dtype, rank, device in self.captures:
                    x = getter(arguments)
                    if not isinstance(x, torch.Tensor) or x.dtype != dtype or x.dim() != rank or x.device != device:
                        return None
                    leaves.append(x)
        except _GONE:
            return None
        return leaves

    def run(self, inputs: Sequence[Any]) -> list[torch.Tensor] | None:
        """The tensors that the function returns, or None if a guard does not hold."""
        if self.values_hold is not None and not self.values_hold(inputs):
            return None
        return self.plan.attempt(self.tensors(inputs))

    def run_saving(
        self, inputs: Sequence[Any], tensors: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]] | None:
        """The same, and what the gradient needs besides the inputs; ``tensors`` are the inputs as tensors."""
        if self.values_hold is not None and not self.values_hold(inputs):
            return None
        return self.plan.attempt_saving(tensors)

    def differentiate(
        self,
        needs: tuple[bool, ...],
        tensors: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor | None],
    ) -> tuple[list[torch.Tensor | None] | None, str]:
        """The gradients of the inputs that need one; if only PyTorch can tell them, None and the reason.

        ``tensors`` are the inputs and what :meth:`run_saving` gave besides the results.
        """
        given = tuple([n for n, g in enumerate(gradients) if g is not None])
        plan = self.gradients.get((needs, given)) or self._gradient(needs, given)
        if isinstance(plan, str):
            return None, plan
        inputs = [*tensors, *[g for g in gradients if g is not None]]
        with autocast.off(self.device.type):
            found = iter(plan.run(inputs))
        return [next(found) if need else None for need in needs], ""

    def _gradient(self, needs: tuple[bool, ...], given: tuple[int, ...]) -> Plan | str:
        found: Plan | str
        try:
            if cut := self.cut():
                found = f"{with_text(cut)}: keeps gradients out, which only PyTorch follows"
            else:
                found = self.build_gradient([n for n, need in enumerate(needs) if need], given)
        except InternalError:
            raise
        except AttncError as error:
            found = str(error)
        self.gradients[needs, given] = found
        return found

    def report_backward(self, fallback: str, sizes: Mapping[str, Any], why: str) -> None:
        """Report once that gradients are eager, and why."""
        if why not in self.reported:
            report_backward(fallback, self.graph, sizes, why)
            self.reported.add(why)

    def cut(self) -> Location | None:
        """Where the function keeps gradients out that there would be."""
        # a maximum that was subtracted before a softmax is gone, and one that is left is more than that
        return self.graph.cut or (self.graph.peak if any("amax(" in text for text in self.plan.calls) else None)

    def tensors(self, inputs: Sequence[Any]) -> Sequence[torch.Tensor]:
        """Python floats as tensors."""
        if not self.scalars:
            return inputs
        tensors = list(inputs)
        device = next(x.device for x in tensors if isinstance(x, torch.Tensor) and x.dim())
        for n, dtype in self.scalars:
            if not isinstance(tensors[n], torch.Tensor):
                tensors[n] = torch.tensor(tensors[n], dtype=dtype, device=device)
        return tensors

    def broken(self, arguments: Mapping[str, Any], inputs: Sequence[Any]) -> str | None:
        """A fact that a call breaks, in words."""
        for path, getter, value in self.watched:
            try:
                now = getter(arguments)
            except _GONE:
                return f"{path} == {value!r}"
            if type(now) is not type(value) or now != value:
                return f"{path} == {value!r}"
        values = call_values(self.graph, inputs)
        return next((str(g) for g in self.guards if not _evaluated(g, values)), None)

    def sizes(self, inputs: Sequence[Any]) -> dict[str, Any]:
        """Size symbols and scalar arguments of a call."""
        return call_values(self.graph, inputs)


def call_values(graph: Graph, inputs: Sequence[Any]) -> dict[str, Any]:
    """Size symbols and scalar arguments of a call."""
    values = {name: int(inputs[n].shape[axis]) for name, (n, axis) in graph.bindings.items() if n < len(inputs)}
    for n, node in enumerate(graph.inputs[: len(inputs)]):
        if not node.shape and not isinstance(inputs[n], torch.Tensor):
            values[node.name] = inputs[n]
    return values


def _evaluated(e: Expr, values: Mapping[str, Any]) -> Any:
    return evaluate(_bare(e), values)


def _bare(e: Expr) -> Expr:
    """Scalar arguments as variables."""
    return rewrite(e, lambda x: Var(x.tensor, "float") if isinstance(x, Load) and not x.index else None)


def _guard_function(graph: Graph, guards: Sequence[Expr]) -> Callable[[Sequence[Any]], bool]:
    """All guards as one Python function of the inputs of a call."""
    names = {name: f"s{n}" for n, name in enumerate(graph.bindings)}  # no size or argument may hide a function
    names |= {node.name: f"v{n}" for n, node in enumerate(graph.inputs) if not node.shape}
    bare = [_bare(g) for g in guards]
    used = set().union(*map(free_vars, bare))
    lines = ["def holds(inputs):"]
    for n, node in enumerate(graph.inputs):
        axes = {axis: name for name, (m, axis) in graph.bindings.items() if m == n}
        if used & set(axes.values()):
            lines.append(f"    {', '.join(names[axes[a]] for a in sorted(axes))}, = inputs[{n}].shape")
        elif node.name in used:
            lines.append(f"    {names[node.name]} = inputs[{n}]")
    plain = [rewrite(g, lambda e: Var(names[e.name], e.kind) if isinstance(e, Var) else None) for g in bare]
    lines.append(f"    return {' and '.join(f'({g})' for g in plain) or 'True'}")
    space: dict[str, Any] = dict(_FUNCTIONS, inf=float("inf"), nan=float("nan"))
    exec("\n".join(lines), space)
    return space["holds"]


def _picker(graph: Graph) -> Callable[[Sequence[torch.Tensor], Sequence[Any]], Any]:
    """From the plan's results to what the user's function returns."""
    outputs = graph.outputs
    if isinstance(outputs, Node):
        return lambda results, leaves: results[0]
    if isinstance(outputs, tuple) and all(isinstance(x, Node) for x in outputs) and not hasattr(outputs, "_fields"):
        return lambda results, leaves: tuple(results)

    def pick(results: Sequence[torch.Tensor], leaves: Sequence[Any]) -> Any:
        waiting = iter(results)
        values = call_values(graph, leaves)

        def leaf(x: Any) -> Any:
            if isinstance(x, Node):
                return next(waiting)
            if isinstance(x, Expr):
                return _evaluated(x, values)
            return x

        return map_arg(outputs, leaf)

    return pick
