"""Numbers of a traced call that stay symbolic: tensor sizes, and Python floats passed as arguments.

They are subclasses of ``torch.SymInt`` and ``torch.SymFloat``, so PyTorch accepts them wherever it takes a
number, with arithmetic of our own: an operator builds an :class:`Expr`; a comparison, ``int()``, ``range()``
or a hash is answered from the traced call's values, and the answer becomes a guard of the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..ir.expr import Const, Expr, Number, Op, const, kind_of, op

if TYPE_CHECKING:
    from .graph import Graph

Scalar = int | float | torch.SymInt | torch.SymFloat


class _Node:
    """What PyTorch's C++ side asks of a symbolic number: its value, as a guard."""

    __slots__ = ("expr", "graph", "is_float_")

    def __init__(self, graph: Graph, expr: Expr):
        self.graph, self.expr, self.is_float_ = graph, expr, kind_of(expr) == "float"

    def is_int(self) -> bool:
        return not self.is_float_

    def is_float(self) -> bool:
        return self.is_float_

    def is_bool(self) -> bool:
        return False

    def is_symbolic(self) -> bool:
        return True

    def is_constant(self) -> bool:
        return False

    def is_nested_int(self) -> bool:
        return False

    def maybe_as_int(self) -> None:
        return None

    def has_hint(self) -> bool:
        return True

    def guard_int(self, file: str = "", line: int = 0) -> int:
        return self.graph.specialise(self.expr)

    int_ = guard_int

    def guard_float(self, file: str = "", line: int = 0) -> float:
        return specialise_float(self.graph, self.expr)

    def _graph_repr(self) -> str:
        return str(self.expr)

    str = _graph_repr


def specialise_float(graph: Graph, e: Expr) -> float:
    """The value of ``e`` as a float.  Guards name what it is made of, since floats do not compare well."""
    from ..ir.expr import free_vars, loads

    for name in sorted(free_vars(e)):
        graph.specialise(graph.canon(op("+", _var(name), 0)))
    for load in loads(e):
        graph.assume(op("==", load, graph.hint(load)))
    return float(graph.hint(e))


def _var(name: str) -> Expr:
    from ..ir.expr import var

    return var(name)


class _Arithmetic:
    """Operators shared by sizes and floats; results wrap :class:`Expr` s of the same graph."""

    node: Any

    @property
    def expr(self) -> Expr:
        return self.node.graph.canon(self.node.expr)

    def _op(self, name: str, *args: Any) -> Any:
        graph = self.node.graph
        parts = [graph.canon(as_expr(a)) for a in args]
        if name in ("//", "%") and any(kind_of(p) == "float" for p in parts):
            return graph_number(graph, Const(_python(name, [graph.hint(p) for p in self._pinned(parts)])))
        return graph_number(graph, op(name, *parts))

    def _pinned(self, parts: list[Expr]) -> list[Expr]:
        for part in parts:
            specialise_float(self.node.graph, part)
        return parts

    def _compare(self, name: str, other: Any) -> Any:
        if not isinstance(other, int | float | torch.SymInt | torch.SymFloat):
            return NotImplemented
        return self.node.graph.assume(op(name, self.expr, as_expr(other)))

    def __bool__(self) -> bool:
        return self._compare("!=", 0)

    def __hash__(self) -> int:
        return hash(float(self) if isinstance(self, torch.SymFloat) else int(self))  # type: ignore[call-overload]

    def __repr__(self) -> str:
        return str(self.expr)

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self.node.graph.hint(self.expr), spec) if spec else str(self)

    def __neg__(self) -> Any:
        return self._op("-", 0, self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self._op("abs", self)

    def __sym_max__(self, other: Any) -> Any:
        return self._op("max", self, other)

    def __sym_min__(self, other: Any) -> Any:
        return self._op("min", self, other)

    def __pow__(self, other: Any, mod: None = None) -> Any:
        base, power = self, other
        if kind_of(as_expr(power)) == "int" and not isinstance(self, torch.SymFloat):
            if power < 0:
                base = self._op("float", self)
        return base._op("pow", base, power)

    def __rpow__(self, other: Any) -> Any:
        if kind_of(as_expr(other)) == "int" and self._compare("<", 0):
            return self._op("pow", float(other), self)
        return self._op("pow", other, self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other  # type: ignore[operator]

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self  # type: ignore[operator]


def _python(name: str, values: list[Number]) -> Number:
    return values[0] // values[1] if name == "//" else values[0] % values[1]


def _install(cls: type) -> None:
    """Binary operators and comparisons of Python, in both orders."""

    def binary(name: str, swap: bool) -> Any:
        def method(self: Any, other: Any) -> Any:
            if not isinstance(other, int | float | torch.SymInt | torch.SymFloat):
                return NotImplemented
            return self._op(name, other, self) if swap else self._op(name, self, other)

        return method

    def compare(name: str) -> Any:
        return lambda self, other: self._compare(name, other)

    symbols = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "and": "&", "or": "|",
               "xor": "^", "lshift": "<<", "rshift": ">>"}  # fmt: skip
    for method, symbol in symbols.items():
        setattr(cls, f"__{method}__", binary(symbol, swap=False))
        setattr(cls, f"__r{method}__", binary(symbol, swap=True))
    for method, symbol in {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
        setattr(cls, f"__{method}__", compare(symbol))


_install(_Arithmetic)


class Size(_Arithmetic, torch.SymInt):  # type: ignore[misc]
    """A size, or integer arithmetic on sizes."""

    __hash__ = _Arithmetic.__hash__

    def __int__(self) -> int:
        return self.node.guard_int()

    __index__ = __int__

    def __float__(self) -> float:
        return float(int(self))

    def __round__(self, digits: int | None = None) -> Any:
        return self

    def __floor__(self) -> Any:
        return self

    __ceil__ = __trunc__ = __floor__

    def is_integer(self) -> bool:
        return True


class Real(_Arithmetic, torch.SymFloat):  # type: ignore[misc]
    """A Python float argument, or arithmetic that gives a float."""

    __hash__ = _Arithmetic.__hash__

    def __float__(self) -> float:
        return self.node.guard_float()

    def __int__(self) -> int:
        return int(self.__trunc__())

    def __trunc__(self) -> Any:
        return graph_number(self.node.graph, op("int", self.expr))

    def __floor__(self) -> Any:
        return graph_number(self.node.graph, _rounded("floor", self.expr))

    def __ceil__(self) -> Any:
        return graph_number(self.node.graph, _rounded("ceil", self.expr))

    def __round__(self, digits: int | None = None) -> Any:
        return round(float(self), digits)

    def is_integer(self) -> bool:
        return float(self).is_integer()


def _rounded(name: str, e: Expr) -> Expr:
    """``floor`` and ``ceil`` of a quotient of integers without floating point."""
    match e:
        case Op("/", (a, b)) if kind_of(a) == kind_of(b) == "int":
            return a // b if name == "floor" else -((-a) // b)
    return op(name, e)


def graph_number(graph: Graph, e: Expr) -> Any:
    """The Python number for ``e``: plain when constant."""
    e = graph.canon(e)
    if isinstance(e, Const):
        return e.value
    return (Real if kind_of(e) == "float" else Size)(_Node(graph, e))


def as_expr(value: Any) -> Expr:
    """The expression of a Python number, plain or symbolic."""
    if isinstance(value, _Arithmetic):
        return value.expr
    if isinstance(value, Expr):
        return value
    return const(value)


def is_number(value: Any) -> bool:
    """A plain or symbolic number, booleans included."""
    return isinstance(value, int | float | torch.SymInt | torch.SymFloat)


def hint_of(value: Any) -> Any:
    """``value`` in the traced call: plain numbers for symbolic ones."""
    return value.node.graph.hint(value.expr) if isinstance(value, _Arithmetic) else value


def ceil(e: Expr) -> Expr:
    """Round up, as ``math.ceil`` does."""
    return _rounded("ceil", e) if kind_of(e) == "float" else e
