"""Calls to PyTorch as lines of a plan's function: in place where they may be, else as they are least expensive."""

from __future__ import annotations

import ast
from collections.abc import Callable

from ..ir.calls import parse_call
from ..ir.expr import free_vars, parse
from .errors import InputError
from .plan import CallGradientStep, CallStep, LaunchStep
from .plan_calls import ROUNDED, faster
from .plan_memory import is_fresh, updates
from .plan_values import Values
from .plan_writes import on_values, write_of


class CallLines(Values):
    """Writes a :class:`CallStep`."""

    def call(self, n: int, step: CallStep, launched: set[str]) -> None:
        """The lines of step ``n``; kernels read the values in ``launched``."""
        tree, comment = self.parsed(step), comment_text(step.at)
        one = len(step.outputs) == 1
        value = self.written(n, tree)
        if value is None:
            if n in self.parts:
                inner = self.plan.steps[self.parts[n]]
                assert isinstance(inner, CallStep)
                self.call(self.parts[n], inner, launched)
            self.read(step.inputs)
            value = self.in_place(n, step, tree) or self.faster(n, step, tree) or ast.unparse(tree)
        self.memory.made([s.name for s in step.outputs], step.inputs, fresh=is_fresh(tree, self.casts(step)))
        self.lines.append(f"{step.outputs[0].name if one else self.targets(step.outputs)} = {value}{comment}")
        for spec in step.outputs:
            if one:
                self.define(spec)
            for axis, size in enumerate(spec.shape):
                e = parse(size)
                if size.isidentifier() and size not in self.bound and free_vars(e) == {size}:
                    if self.name(size) in self.known:
                        raise InputError(f"the plan {self.plan.name} uses {size} both as a size and as a tensor")
                    self.lines.append(f"{size} = {spec.name}.shape[{axis}]")
                    self.bound.add(size)
            if spec.name in launched:  # a kernel trusts shapes and dtypes
                shape = self.shape(spec.shape)
                self.lines.append(f"if {spec.name}.dtype is not {spec.dtype} or {spec.name}.shape != {shape}:")
                self.lines.append(f"    check_value({spec.name}, {spec.dtype}, {shape}, {step.text!r}, {step.at!r})")

    def is_live(self, n: int) -> Callable[[str], bool]:
        """Is a value read after step ``n``?"""
        return lambda name: name in self.plan.saved or self.uses.get(name, n + 1) > n

    def written(self, n: int, tree: ast.Expression) -> str | None:
        """The tensor of which a call replaces a part, after the part is written to it; None where it may not be."""
        write = write_of(tree)
        if write is None:
            return None
        view, part, inner = write.view(write.whole), write.part, self.parts.get(n)
        while inner is not None:
            step = self.plan.steps[inner]
            assert isinstance(step, CallStep)
            more = write_of(self.parsed(step))
            assert more is not None
            view, part, inner = more.view(view), more.part, self.parts.get(inner)
        if not self.memory.free(write.whole, {part}, self.is_live(n)):
            return None
        self.read([write.whole, part])
        self.lines.append(f"{view}.copy_({part})")
        return write.whole

    def in_place(self, n: int, step: CallStep, tree: ast.Expression) -> str | None:
        """The call as one that overwrites an operand of the result's kind, where nobody misses the operand."""
        if len(step.outputs) != 1 or n in self.inner:
            return None
        for operand, others, call in updates(tree):
            if self.kinds.get(operand) == (step.outputs[0].shape, step.outputs[0].dtype):
                rest = set(step.inputs) & {node.id for node in names_in(others)}
                if self.memory.free(operand, rest, self.is_live(n)):
                    return call
        return None

    def faster(self, n: int, step: CallStep, tree: ast.Expression) -> str | None:
        """Another call that gives the same, on a CPU; without kernels to the last bit, as all of it is eager then."""
        if self.plan.device_type != "cpu":
            return None
        read = [self.uses.get(s.name) != n or s.name in self.plan.saved for s in step.outputs]
        results = [(s.shape, s.dtype) if used else None for s, used in zip(step.outputs, read, strict=True)]
        found = faster(tree, results, {x: self.kinds[x] for x in step.inputs if x in self.kinds})
        launches = any(isinstance(s, LaunchStep) for s in self.plan.steps)
        return found if found and (launches or found.partition("(")[0] not in ROUNDED) else None

    def casts(self, step: CallStep) -> bool:
        """Has the result another dtype than any operand?"""
        return all(self.kinds[x][1] != spec.dtype for x in step.inputs if x in self.kinds for spec in step.outputs)

    def parsed(self, step: CallStep) -> ast.Expression:
        """The call with the names of its operands; all else that it uses has a value."""
        tree = parse_call(step.text)
        self.check(tree, step)
        return on_values(tree, step.inputs)

    def tree(self, step: CallGradientStep) -> ast.Expression:
        """The call, read; all that it uses has a value."""
        self.read(step.inputs)
        tree = parse_call(step.text)
        self.check(tree, step)
        return tree

    def check(self, tree: ast.Expression, step: CallStep | CallGradientStep) -> None:
        """Has all that a call uses a value?"""
        allowed = {f"x{k}" for k in range(len(step.inputs))} | self.bound | {"torch", "device", "inf", "nan"}
        for node in names_in(tree):
            if node.id not in allowed:
                raise InputError(f"the call {step.text!r} uses {node.id}, which has no value there")


def names_in(tree: ast.AST) -> list[ast.Name]:
    """All names that a tree reads."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.Name)]


def comment_text(at: str) -> str:
    """The line that a step comes from, behind it."""
    return f"  # {at}".replace("\n", " ") if at else ""
