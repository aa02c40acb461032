"""Expressions as Triton source.

Every subexpression is printed with the axes that it varies along and is expanded only where it meets
another axis, so ``i // 4 == j // 4`` divides two vectors and compares one matrix.

Integers have 32 bits, which are enough for positions.  Where more bits of one that may be larger count, as in
``(i - j) * (i - j) < N * 3``, it is computed in 64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from ...ir.expr import Const, Expr, Kind, Load, Op, Var, kind_of
from .errors import UnsupportedKernelError
from .facts import MODULAR, largest, nonnegative

_ATOM, _UNARY = 20, 11
_BINARY = {
    "and": ("&", 7), "or": ("|", 5), "|": ("|", 5), "^": ("^", 6), "&": ("&", 7), "<<": ("<<", 8), ">>": (">>", 8),
    "+": ("+", 9), "-": ("-", 9), "*": ("*", 10), "/": ("/", 10),
    "<": ("<", 4), "<=": ("<=", 4), ">": (">", 4), ">=": (">=", 4), "==": ("==", 4), "!=": ("!=", 4),
}  # fmt: skip
_COMPARE = ("<", "<=", ">", ">=", "==", "!=")
_CALLS = {
    "min": "tl.minimum", "max": "tl.maximum", "exp": "tl.exp", "exp2": "tl.exp2", "log": "tl.log", "log2": "tl.log2",
    "sin": "tl.sin", "cos": "tl.cos", "tanh": "tanh",
}  # fmt: skip


@dataclass(frozen=True)
class Text:
    """Printed code: its binding strength, the axes that it varies along, its kind."""

    code: str
    strength: int = _ATOM
    axes: tuple[str, ...] = ()
    kind: Kind = "int"
    wide: bool = False  # already 64 bits

    def at_least(self, strength: int) -> str:
        return self.code if self.strength >= strength else f"({self.code})"

    def method(self, call: str) -> Text:
        return replace(self, code=f"{self.at_least(_ATOM)}.{call}", strength=_ATOM)


def expanded(x: Text, axes: Sequence[str]) -> Text:
    """``x`` indexed so that it broadcasts along ``axes``."""
    own = [a for a in axes if a in x.axes]
    if not own or len(own) == len(axes):
        return x
    index = ", ".join(":" if a in own else "None" for a in axes)
    return replace(x, code=f"{x.at_least(_ATOM)}[{index}]", strength=_ATOM, axes=tuple(axes))


def _widened(x: Text) -> Text:
    if x.wide or x.kind != "int":
        return x
    code = x.method("to(tl.int64)").code if x.axes else f"tl.cast({x.code}, tl.int64)"
    return replace(x, code=code, strength=_ATOM, wide=True)


def in_order(axes: Sequence[str], used: set[str]) -> tuple[str, ...]:
    """The axes in ``used``, in the order of ``axes``."""
    return tuple(a for a in axes if a in used)


def number(value: int | float | bool) -> str:
    """A literal."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


class Scalars:
    """Prints expressions over named values.

    ``names`` gives the code of each variable, ``axes`` the order of the tile's axes, ``read`` prints the load
    of a captured element, ``helper`` notes that a function of the module is called, ``known`` are expressions that
    have a name.
    """

    def __init__(
        self,
        names: Mapping[str, Text],
        axes: Sequence[str],
        float_type: str,
        read: Callable[[Load, Scalars], Text],
        helper: Callable[[str], None],
        known: Mapping[Expr, Text] = MappingProxyType({}),
    ):
        self.known = known
        self.names, self.axes, self.float_type = names, tuple(axes), float_type
        self._read, self._helper = read, helper
        self._wide: Scalars | None = None  # the same in 64 bits; itself where these are

    @property
    def wide(self) -> Scalars:
        """The printer of the same values in 64 bits."""
        if self._wide is None:
            names = {n: _widened(x) for n, x in self.names.items()}
            self._wide = Scalars(names, self.axes, self.float_type, self._read, self._helper)
            self._wide._wide = self._wide
        return self._wide

    def text(self, e: Expr) -> Text:
        if e in self.known:
            return self.known[e]
        match e:
            case Const(value):
                negative = not isinstance(value, bool) and value < 0
                return Text(number(value), _UNARY if negative else _ATOM, (), kind_of(e))
            case Var(name, _):
                if name not in self.names:
                    raise UnsupportedKernelError(f"nothing defines {name!r} where the kernel uses it")
                return self.names[name]
            case Load():
                return self._read(e, self)
            case Op(name, args):
                return self._op(e, name, args)
        raise UnsupportedKernelError(f"cannot print {e!r} as Triton")

    def as_kind(self, x: Text, kind: Kind, e: Expr) -> Text:
        """``x``, the code of ``e``, converted to ``kind``."""
        if x.kind == kind or (kind == "int" and x.kind == "float"):
            return x
        if isinstance(e, Const):
            value = {"float": float, "int": int, "bool": bool}[kind](e.value)
            return Text(number(value), _UNARY if value < 0 else _ATOM, (), kind)
        if kind == "bool":
            return Text(f"{x.at_least(5)} != 0", 4, x.axes, "bool")
        if kind == "float" and x.kind == "int" and largest(e) >= 1 << 31:
            x = self.wide.text(e)
        integer = "tl.int64" if self._wide is self else "tl.int32"
        return replace(x.method(f"to({self.float_type if kind == 'float' else integer})"), kind=kind)

    # ---- operators ------------------------------------------------------------------------------------

    def _op(self, e: Op, name: str, args: tuple[Expr, ...]) -> Text:
        kind = kind_of(e)
        if self._wide is not self and name not in MODULAR:
            if any(kind_of(a) == "int" and largest(a) >= 1 << 31 for a in args):
                return self.wide.text(e)
        if name == "-" and args[0] == Const(0) and kind != "float":
            x = self._args(args[1:], "int")[0]
            return Text(f"-{x.at_least(_UNARY)}", _UNARY, x.axes, "int")
        if name in _COMPARE:
            kinds = {kind_of(a) for a in args}
            return self._infix(name, args, "float" if "float" in kinds else "int" if "int" in kinds else "bool", "bool")
        if name in ("and", "or"):
            return self._infix(name, args, "bool", "bool")
        if name in ("//", "%"):
            return self._divide(name, args, kind)
        if name in _BINARY:
            return self._infix(name, args, kind, kind)
        if name in _CALLS:
            if name == "tanh":
                self._helper("tanh")
            return self._call(_CALLS[name], self._args(args, kind), kind)
        return getattr(self, f"_{name}")(args, kind)

    def _args(self, args: Sequence[Expr], kind: Kind) -> list[Text]:
        """Code of the arguments, of one kind and along the same axes."""
        texts = [self.as_kind(self.text(a), kind, a) for a in args]
        axes = in_order(self.axes, {a for t in texts for a in t.axes})
        return [expanded(t, axes) for t in texts]

    def _infix(self, name: str, args: Sequence[Expr], of: Kind, kind: Kind) -> Text:
        a, b = self._args(args, of)
        symbol, strength = _BINARY[name]
        left = a.at_least(strength + 1 if name in _COMPARE else strength)
        return Text(f"{left} {symbol} {b.at_least(strength + 1)}", strength, a.axes or b.axes, kind)

    def _call(self, function: str, args: Sequence[Text], kind: Kind) -> Text:
        axes = next((a.axes for a in args if a.axes), ())
        return Text(f"{function}({', '.join(a.code for a in args)})", _ATOM, axes, kind)

    def _divide(self, name: str, args: Sequence[Expr], kind: Kind) -> Text:
        a, b = self._args(args, kind)
        axes = a.axes or b.axes
        if kind == "float":
            quotient = f"tl.floor({a.at_least(10)} / {b.at_least(11)})"
            if name == "//":
                return Text(quotient, _ATOM, axes, "float")
            return Text(f"{a.at_least(9)} - {quotient} * {b.at_least(11)}", 9, axes, "float")
        divisor = args[1].value if isinstance(args[1], Const) else None
        if nonnegative(args[0]) and (nonnegative(args[1]) if divisor is None else divisor > 0):
            return Text(f"{a.at_least(10)} {name} {b.at_least(11)}", 10, axes)  # truncating is flooring here
        if isinstance(divisor, int) and divisor > 0 and divisor & (divisor - 1) == 0:
            if name == "//":
                return Text(f"{a.at_least(10)} >> {divisor.bit_length() - 1}", 8, axes)
            return Text(f"{a.at_least(10)} & {divisor - 1}", 7, axes)
        helper = "floor_div" if name == "//" else "floor_mod"
        self._helper(helper)
        return self._call(helper, [a, b], "int")

    # ---- functions ------------------------------------------------------------------------------------

    def _not(self, args: Sequence[Expr], kind: Kind) -> Text:
        (x,) = self._args(args, "bool")
        return Text(f"~{x.at_least(_UNARY)}", _UNARY, x.axes, "bool")

    def _where(self, args: Sequence[Expr], kind: Kind) -> Text:
        texts = [self.as_kind(self.text(a), k, a) for a, k in zip(args, ("bool", kind, kind), strict=True)]
        if kind == "float" and self.float_type == "tl.float64" and all(isinstance(a, Const) for a in args[1:]):
            # a choice between two numbers would be in float32
            texts[1] = self._call("tl.full", [Text("[]"), texts[1], Text(self.float_type)], kind)
        axes = in_order(self.axes, {a for t in texts for a in t.axes})
        return self._call("tl.where", [expanded(t, axes) for t in texts], kind)

    def _abs(self, args: Sequence[Expr], kind: Kind) -> Text:
        return self._call("tl.abs", self._args(args, kind), kind)

    def _int(self, args: Sequence[Expr], kind: Kind) -> Text:
        x = self.text(args[0])
        return x if x.kind == "int" else replace(x.method("to(tl.int32)"), kind="int")

    def _float(self, args: Sequence[Expr], kind: Kind) -> Text:
        return self._args(args, "float")[0]

    def _floor(self, args: Sequence[Expr], kind: Kind) -> Text:
        return replace(self._call("tl.floor", self._args(args, "float"), "float").method("to(tl.int32)"), kind="int")

    def _ceil(self, args: Sequence[Expr], kind: Kind) -> Text:
        return replace(self._call("tl.ceil", self._args(args, "float"), "float").method("to(tl.int32)"), kind="int")

    def _sqrt(self, args: Sequence[Expr], kind: Kind) -> Text:
        # tl.sqrt is approximate in float32
        return self._call("tl.sqrt_rn" if self.float_type == "tl.float32" else "tl.sqrt", self._args(args, kind), kind)

    def _sigmoid(self, args: Sequence[Expr], kind: Kind) -> Text:
        (x,) = self._args(args, "float")
        return Text(f"1.0 / (1.0 + tl.exp(-{x.at_least(_UNARY)}))", 10, x.axes, "float")

    def _pow(self, args: Sequence[Expr], kind: Kind) -> Text:
        base, exponent = args
        if isinstance(exponent, Const) and isinstance(exponent.value, int) and 0 < exponent.value <= 16:
            (x,) = self._args([base], kind)
            return Text(" * ".join([x.at_least(11)] * exponent.value), 10, x.axes, kind)
        if kind == "int":
            if base == Const(2):
                (n,) = self._args([exponent], "int")
                return Text(f"1 << {n.at_least(9)}", 8, n.axes)
            raise UnsupportedKernelError(f"cannot print {Op('pow', tuple(args))} as Triton: write it with floats")
        if isinstance(base, Const) and base.value > 0:
            (n,) = self._args([exponent], "float")
            factor = math.log2(base.value)
            power = n.code if factor == 1 else f"{n.at_least(10)} * {factor!r}"
            return Text(f"tl.exp2({power})", _ATOM, n.axes, kind)
        a, b = self._args(args, "float")
        return self._call("tl.exp2", [Text(f"{b.at_least(10)} * tl.log2({a.code})", 10, a.axes or b.axes)], "float")
