"""The text of an op as PyTorch would be called: ``torch.softmax(x0, -1)``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from ..ir.expr import Expr, Load, Op, Var, loads, rewrite
from .graph import Node

_HOLE = re.compile(r"\{(\w+)\}")
_OPERATORS = frozenset("+-*/%<>=!&|^@")


def call_text(template: str, args: Mapping[str, Any], inputs: Mapping[str, Node]) -> tuple[str, tuple[Node, ...]]:
    """Fill ``{name}`` holes with arguments; tensors become ``x0, x1, ...``, returned in that order."""
    operands: list[Node] = []

    def operand(node: Node) -> str:
        if node not in operands:
            operands.append(node)
        return f"x{operands.index(node)}"

    def text(value: Any) -> str:
        match value:
            case Node():
                return operand(value)
            case Expr():
                return _expr(value, lambda name: operand(inputs[name]))
            case tuple():
                return f"({', '.join(text(x) for x in value)}{',' if len(value) == 1 else ''})"
            case list():
                return f"[{', '.join(text(x) for x in value)}]"
            case slice():
                return f"slice({text(value.start)}, {text(value.stop)}, {text(value.step)})"
            case torch.device():
                return "device"
            case torch.dtype() | torch.layout() | torch.memory_format():
                return str(value)
        return repr(value)

    def filled(m: re.Match[str]) -> str:
        value = args[m[1]]
        # a size such as D // 2 next to an operator
        joined = template[: m.start()].rstrip()[-1:] in _OPERATORS or template[m.end() :].lstrip()[:1] in _OPERATORS
        return f"({text(value)})" if joined and isinstance(value, Op) else text(value)

    return _HOLE.sub(filled, template), tuple(operands)


_FUNCTIONS = {"pow": "({0}) ** ({1})", "min": "torch.sym_min({0}, {1})", "max": "torch.sym_max({0}, {1})",
              "int": "torch.sym_int({0})", "float": "torch.sym_float({0})", "abs": "torch.abs({0})",
              "where": "({1} if {0} else {2})"}  # fmt: skip


def _expr(e: Expr, operand: Any) -> str:
    """An expression in the language of calls, which has no free functions."""

    def rule(x: Expr) -> Expr | None:
        match x:
            case Load(name, ()):
                return Var(operand(name))
            case Op(name, args) if name in _FUNCTIONS:
                return Var(f"({_FUNCTIONS[name].format(*args)})")
        return None

    plain = not loads(e) and not any(f"{name}(" in str(e) for name in _FUNCTIONS)
    return str(e if plain else rewrite(e, rule))
