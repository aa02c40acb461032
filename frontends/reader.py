"""Python functions written for Dynamo to read: it follows plain code, and guards on all that this code reads.

``bind`` takes the arguments of a call as the user's function does.  ``read`` checks what the program relies on outside
its arguments, and gives the captured tensors, found by name as the user's code finds them.  ``pick`` makes what the
user's function returns of the resulting tensors.
"""

from __future__ import annotations

import builtins
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..ir.expr import OPS, Expr, Load, Var, rewrite
from .capture import Fact, Place, unwrapped
from .errors import TransformError
from .graph import Graph, Node

_FUNCTIONS = {name: fold for name, (_, fold) in OPS.items() if name.isidentifier()}


def bind_function(fn: Any, signature: inspect.Signature) -> Callable[..., tuple[Any, ...]]:
    """The values of all parameters, defaults filled in."""
    bare = [
        p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else 0)
        for p in signature.parameters.values()
    ]
    header = str(inspect.Signature(bare))
    names = "".join(f"{p.name}, " for p in bare)
    bind = _function(f"def bind{header}:\n    return ({names})", "bind", {}, {})
    given = [p for p in signature.parameters.values() if p.default is not p.empty]
    bind.__defaults__ = tuple(p.default for p in given if p.kind is not p.KEYWORD_ONLY)
    bind.__kwdefaults__ = {p.name: p.default for p in given if p.kind is p.KEYWORD_ONLY}
    return bind


def read_functions(
    graph: Graph, fn: Any, names: Sequence[str], places: Sequence[Place], facts: Sequence[Fact]
) -> tuple[list[tuple[Callable[..., Any], str]], list[int]]:
    """Functions, each with a text that tells it from others; and where each of ``places`` is in all that they give.

    The first takes the values of the parameters ``names``; the others belong to functions that ``fn`` calls.
    """
    main = unwrapped(fn)
    owners = list(dict.fromkeys([main, *(f.owner for f in facts), *(p.owner for p in places)]))
    functions: list[tuple[Callable[..., Any], str]] = []
    order: dict[int, int] = {}
    for owner in owners:
        constants: dict[str, Any] = {}
        tests = list(dict.fromkeys(_test(f, constants) for f in facts if f.owner is owner))
        mine = [(n, p) for n, p in enumerate(places) if p.owner is owner]
        for n, place in mine:
            order[n] = len(order)
            if place.code is None:
                raise TransformError(
                    f"{graph.location}: {graph.name} reaches the tensor {place.path} in a way that torch.compile "
                    "cannot follow; pass it as an argument"
                )
        lines = [f"def read({', '.join(names) if owner is main else ''}):"]
        lines += [f"    if not ({test}):\n        return None" for test in tests]
        lines.append(f"    return ({''.join(f'{p.code}, ' for _, p in mine)})")
        text = "\n".join(lines)
        code = getattr(owner, "__code__", None)  # a partial, say, has none
        cells = dict(zip(code.co_freevars, owner.__closure__ or (), strict=True)) if code else {}
        cells = {name: cell for name, cell in cells.items() if owner is not main or name not in names}
        cells |= {name: types.CellType(value) for name, value in constants.items()}
        function = _function(text, "read", getattr(owner, "__globals__", {}), cells)
        functions.append((function, f"{text} {constants}"))
    return functions, [order[n] for n in range(len(places))]


def _test(fact: Fact, constants: dict[str, Any]) -> str:
    code, value = fact.code, fact.value
    match fact.kind:
        case "type":
            return f"id(type({code})) == {id(type(value))}"
        case "same":
            return f"id({code}) == {id(value)}"
        case "none":
            return f"({code} is None) == {value}"
    if value is None or isinstance(value, bool):
        return f"{code} is {value}"
    if isinstance(value, int | str):
        return f"{code} == {value!r}"
    name = f"_constant_{len(constants)}"
    constants[name] = value
    return f"{code} == {name}"


def pick_function(graph: Graph) -> tuple[Callable[..., Any], str]:
    """From resulting tensors and inputs to what the user's function returns, and a text that tells it from others."""
    constants: dict[str, Any] = {}
    count = iter(range(len(graph.output_nodes())))
    sizes = {name: f"inputs[{n}].shape[{axis}]" for name, (n, axis) in graph.bindings.items()}
    numbers = {node.name: f"inputs[{n}]" for n, node in enumerate(graph.inputs) if not node.shape}

    def bare(e: Expr) -> Expr | None:
        match e:
            case Var(name) if name in sizes:
                return Var(sizes[name], e.kind)
            case Load(name, ()):
                return Var(numbers[name], "float")
        return None

    text = _written(graph.outputs, lambda: f"results[{next(count)}]", lambda e: str(rewrite(e, bare)), constants)
    source = f"def pick(results, inputs):\n    return {text}"
    cells = {name: types.CellType(value) for name, value in constants.items()}
    return _function(source, "pick", dict(_FUNCTIONS), cells), f"{source} {constants}"


def _written(value: Any, tensor: Callable[[], str], number: Callable[[Expr], str], constants: dict[str, Any]) -> str:
    def again(xs: Any) -> Iterator[str]:
        return (_written(x, tensor, number, constants) for x in xs)

    def constant(x: Any) -> str:
        name = f"_constant_{len(constants)}"
        constants[name] = x
        return name

    if isinstance(value, Node):
        return tensor()
    if isinstance(value, Expr):
        return number(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"{constant(type(value))}({', '.join(again(value))})"
    if isinstance(value, tuple):
        return f"({''.join(f'{x}, ' for x in again(value))})"
    if isinstance(value, list):
        return f"[{', '.join(again(value))}]"
    if isinstance(value, dict):
        keys = [repr(k) if isinstance(k, str | int) else constant(k) for k in value]
        return f"{{{', '.join(f'{k}: {x}' for k, x in zip(keys, again(value.values()), strict=True))}}}"
    return repr(value) if value is None or isinstance(value, bool | int | str) else constant(value)


def _function(text: str, name: str, space: dict[str, Any], cells: dict[str, Any]) -> types.FunctionType:
    """The function of this text, with ``space`` for globals and ``cells`` for what is outside it."""
    body = "\n".join(f"    {line}" for line in text.splitlines())
    variables = "".join(f"    {cell} = None\n" for cell in cells)
    made: dict[str, Any] = {}
    exec(f"def make():\n{variables}{body}\n    return {name}", made)
    code = made["make"]().__code__
    space.setdefault("__builtins__", builtins)
    return types.FunctionType(code, space, name, None, tuple(cells[free] for free in code.co_freevars))
