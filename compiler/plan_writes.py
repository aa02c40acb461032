"""Writes to a part of a tensor, which plans have as calls that give a new tensor.

``x[:, n, y0:y1] = part`` is captured as ``slice_scatter(x[:, n], part)``, which gives all of ``x[:, n]`` anew, and
``select_scatter`` of that, which gives all of ``x`` anew.  Where a plan may overwrite ``x``, it copies ``part`` to the
view of the view instead, and nothing else.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..ir.calls import parse_call
from .plan import CallStep, Step, inputs_of

# what gives the view that each of these replaces; their first argument is the whole, the second the part
SCATTERS = {"torch.select_scatter": "torch.select", "torch.slice_scatter": "torch.ops.aten.slice.Tensor"}


class Write(NamedTuple):
    """What a call replaces: the ``part`` goes to a ``place`` of the ``whole``, of which it gives a new version."""

    whole: str
    part: str
    place: tuple[str, ...]  # what gives the view, and its arguments

    def view(self, whole: str) -> str:
        """The place in ``whole``, as a view."""
        function, *where = self.place
        return f"{function}({', '.join([whole, *where])})"


def write_of(tree: ast.Expression) -> Write | None:
    """What a call replaces; None for other calls."""
    match tree.body:
        case ast.Call(func, [ast.Name(whole), ast.Name(part), *place], []) if ast.unparse(func) in SCATTERS:
            return Write(whole, part, (SCATTERS[ast.unparse(func)], *map(ast.unparse, place)))
    return None


def view_of(tree: ast.Expression) -> tuple[str, tuple[str, ...]] | None:
    """The tensor and the place, as in :class:`Write`, that a call gives a view of."""
    match tree.body:
        case ast.Call(func, [ast.Name(whole), *place], []) if ast.unparse(func) in SCATTERS.values():
            return whole, (ast.unparse(func), *map(ast.unparse, place))
        case ast.Subscript(ast.Name(whole), ast.Slice() as only):
            dims: list[ast.expr] = [only]
        case ast.Subscript(ast.Name(whole), ast.Tuple(dims)):
            pass
        case _:
            return None
    *others, last = dims
    if isinstance(last, ast.Slice) and all(isinstance(d, ast.Slice) and ast.unparse(d) == ":" for d in others):
        ends = [ast.unparse(e) if e else "None" for e in (last.lower, last.upper, last.step)]
        return whole, (SCATTERS["torch.slice_scatter"], str(len(others)), *ends)
    return None


def inner_writes(steps: Sequence[Step], kept: Collection[str]) -> dict[int, int]:
    """Steps that replace a part of a view, which one later step, and nothing else, puts where the view was; and which.

    ``kept`` are values that are read after the last step.
    """
    if sum(isinstance(s, CallStep) and "_scatter(" in s.text for s in steps) < 2:
        return {}
    made: dict[str, tuple[int, ast.Expression]] = {}
    readers: dict[str, set[int]] = {name: {-1} for name in kept}
    found: dict[int, int] = {}
    for n, step in enumerate(steps):
        for name in inputs_of(step):
            readers.setdefault(name, set()).add(n)
        if isinstance(step, CallStep) and len(step.outputs) == 1:
            made[step.outputs[0].name] = n, on_values(parse_call(step.text), step.inputs)
    for n, tree in made.values():
        outer = write_of(tree)
        if outer is None or readers.get(outer.part) != {n} or outer.part not in made:
            continue
        at, before = made[outer.part]
        inner = write_of(before)
        if inner and inner.whole in made and view_of(made[inner.whole][1]) == (outer.whole, outer.place):
            found[at] = n
    return found


def on_values(tree: ast.Expression, inputs: Sequence[str]) -> ast.Expression:
    """A call with the names of its operands in place of ``x0, x1, ...``."""
    operands = {f"x{k}": name for k, name in enumerate(inputs)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = operands.get(node.id, node.id)
    return tree
