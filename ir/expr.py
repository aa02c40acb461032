"""Scalar expressions over index variables, sizes, scalar arguments and captured tensors.

One small, immutable language says everything that varies per element: sizes (``N // 128``), index maps
(``g * 128 + i``), masks (``abs(i - j) <= 256``), scores (``dot * 0.125 + bias[h, i - j]``).  Its text is
Python's own expression syntax, read back with :func:`parse`; two equal expressions are equal objects as
far as ``==`` and ``hash`` can tell.

Integers follow Python: ``//`` and ``%`` round towards minus infinity.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

remembered = lru_cache(maxsize=1 << 15)  # for functions of expressions: a process may see any number of those
Kind = Literal["int", "float", "bool"]
Number = int | float | bool


@dataclass(frozen=True, slots=True)
class Expr:
    """Base of the five node classes; arithmetic operators build expressions."""

    def __add__(self, other: ExprLike) -> Expr:
        return op("+", self, other)

    def __radd__(self, other: ExprLike) -> Expr:
        return op("+", other, self)

    def __sub__(self, other: ExprLike) -> Expr:
        return op("-", self, other)

    def __rsub__(self, other: ExprLike) -> Expr:
        return op("-", other, self)

    def __mul__(self, other: ExprLike) -> Expr:
        return op("*", self, other)

    def __rmul__(self, other: ExprLike) -> Expr:
        return op("*", other, self)

    def __floordiv__(self, other: ExprLike) -> Expr:
        return op("//", self, other)

    def __mod__(self, other: ExprLike) -> Expr:
        return op("%", self, other)

    def __truediv__(self, other: ExprLike) -> Expr:
        return op("/", self, other)

    def __neg__(self) -> Expr:
        return op("-", 0, self)

    def __str__(self) -> str:
        return _text(self)[0]

    @property
    def children(self) -> tuple[Expr, ...]:
        return ()

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return self


@dataclass(frozen=True, slots=True)
class Const(Expr):
    """A literal.  ``True``, ``1`` and ``1.0`` are three different constants."""

    value: Number

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Const)
            and type(self.value) is type(other.value)
            and (self.value == other.value or (self.value != self.value and other.value != other.value))
        )

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


@dataclass(frozen=True, slots=True)
class Var(Expr):
    """An index variable, a size symbol, or a scalar argument; ``kind`` is its type."""

    name: str
    kind: Kind = "int"


@dataclass(frozen=True, slots=True)
class Op(Expr):
    """An operator or function of :data:`OPS` applied to its arguments."""

    name: str
    args: tuple[Expr, ...]
    _hash: int = field(init=False, compare=False, repr=False)  # deep expressions are looked up often

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.name, self.args)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.args

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return op(self.name, *children)


@dataclass(frozen=True, slots=True)
class Load(Expr):
    """One element of the captured tensor ``tensor`` at an index; ``kind`` is the element's type."""

    tensor: str
    index: tuple[Expr, ...]
    kind: Kind = "float"
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.tensor, self.index, self.kind)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.index

    def rebuild(self, children: tuple[Expr, ...]) -> Expr:
        return Load(self.tensor, children, self.kind)


ExprLike = Expr | int | float | bool


def _unfolded(*args: Number) -> Number:
    raise TypeError("tensors have no value yet")


# name -> (kind of the result, or None for the promoted kind of the arguments; fold on Python numbers)
OPS: dict[str, tuple[Kind | None, Callable[..., Number]]] = {
    "+": (None, lambda a, b: a + b),
    "-": (None, lambda a, b: a - b),
    "*": (None, lambda a, b: a * b),
    "/": ("float", lambda a, b: a / b),
    "//": (None, lambda a, b: a // b),
    "%": (None, lambda a, b: a % b),
    "min": (None, min),
    "max": (None, max),
    "abs": (None, abs),
    "pow": (None, lambda a, b: a**b),
    "&": ("int", lambda a, b: a & b),
    "|": ("int", lambda a, b: a | b),
    "^": ("int", lambda a, b: a ^ b),
    "<<": ("int", lambda a, b: a << b),
    ">>": ("int", lambda a, b: a >> b),
    "<": ("bool", lambda a, b: a < b),
    "<=": ("bool", lambda a, b: a <= b),
    ">": ("bool", lambda a, b: a > b),
    ">=": ("bool", lambda a, b: a >= b),
    "==": ("bool", lambda a, b: a == b),
    "!=": ("bool", lambda a, b: a != b),
    "and": ("bool", lambda a, b: a and b),
    "or": ("bool", lambda a, b: a or b),
    "not": ("bool", lambda a: not a),
    "where": (None, lambda c, a, b: a if c else b),
    "int": ("int", int),
    "float": ("float", float),
    "floor": ("int", math.floor),
    "ceil": ("int", math.ceil),
    "exp": ("float", math.exp),
    "exp2": ("float", lambda a: 2.0**a),
    "log": ("float", lambda a: math.log(a) if a > 0 else (-math.inf if a == 0 else math.nan)),
    "log2": ("float", lambda a: math.log2(a) if a > 0 else (-math.inf if a == 0 else math.nan)),
    "sqrt": ("float", math.sqrt),
    "tanh": ("float", math.tanh),
    "sigmoid": ("float", lambda a: 1.0 / (1.0 + math.exp(-a))),
    "sin": ("float", math.sin),
    "cos": ("float", math.cos),
    # inner(x[..., d], y[..., d]), two reads of captured tensors: their products summed over the features d
    "inner": ("float", _unfolded),
}
_BINARY = {"pow", "min", "max", "inner"}  # of what is written as a call
_ARITY = {name: 3 if name == "where" else 2 if name in _BINARY or not name.isalnum() else 1 for name in OPS}
COMPARISONS = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}  # op -> its negation
_MOST_BITS = 1024  # of an integer that is computed while a program is compiled
TRUE, FALSE, ZERO, ONE = Const(True), Const(False), Const(0), Const(1)


def const(value: ExprLike) -> Expr:
    """Wrap a Python number; expressions pass through."""
    return value if isinstance(value, Expr) else Const(value)


def var(name: str, kind: Kind = "int") -> Var:
    return Var(name, kind)


@remembered
def kind_of(e: Expr) -> Kind:
    """``"int"``, ``"float"`` or ``"bool"``, by Python's promotion rules."""
    match e:
        case Const(value):
            return "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
        case Var(_, kind) | Load(_, _, kind):
            return kind
        case Op(name, args):
            kind = OPS[name][0]
            if kind is not None:
                return kind
            kinds = {kind_of(a) for a in (args[1:] if name == "where" else args)}
            if "float" in kinds:
                return "float"
            return "bool" if kinds == {"bool"} and name == "where" else "int"
    raise TypeError(f"not an expression: {e!r}")


def op(name: str, *args: ExprLike) -> Expr:
    """Apply an operator, folding constants and the identities that need no facts about variables."""
    xs = tuple(const(a) for a in args)
    if all(isinstance(x, Const) for x in xs):
        folded = _fold(name, [x.value for x in xs])  # type: ignore[attr-defined]
        if folded is not None:
            return folded
    return _identity(name, xs) or Op(name, xs)


def _fold(name: str, values: list[Number]) -> Const | None:
    if name in ("pow", "<<") and _is_huge(name, *values):
        return None
    try:
        value = OPS[name][1](*values)
    except (ArithmeticError, ValueError, TypeError):
        return None  # left in the program, where it means what the target makes of it
    return Const(value) if isinstance(value, bool | int | float) else None


def _is_huge(name: str, a: Number, b: Number) -> bool:
    """Would ``a ** b`` or ``a << b`` be an integer far beyond any machine's?"""
    if not isinstance(a, int) or not isinstance(b, int):
        return False
    return b > _MOST_BITS or (name == "pow" and abs(a) > 1 and a.bit_length() * b > _MOST_BITS)


def map_text(exprs: Iterable[Expr]) -> str:
    """Text of an index map, read back by :func:`parse_map`."""
    return ", ".join(str(e) for e in exprs)


def _is(e: Expr, value: Number) -> bool:
    """Is ``e`` a constant of this numeric value, whatever its type (so 0 matches 0.0 but not -0.0)?"""
    if not isinstance(e, Const) or isinstance(e.value, bool) != isinstance(value, bool):
        return False
    return e.value == value and math.copysign(1, e.value) == math.copysign(1, value)


def _same_kind(result: Expr, *others: Expr) -> bool:
    return all(kind_of(result) == kind_of(o) or kind_of(o) == "int" for o in others)


def _identity(name: str, xs: tuple[Expr, ...]) -> Expr | None:
    """The value of ``name(*xs)`` where one argument alone decides it, else None."""
    if name in ("and", "or"):
        unit, zero = (TRUE, FALSE) if name == "and" else (FALSE, TRUE)
        if zero in xs:
            return zero
        rest = [x for x in dict.fromkeys(xs) if x != unit]
        return unit if not rest else rest[0] if len(rest) == 1 else None
    if name == "not":
        match xs[0]:
            case Op("not", (inner,)):
                return inner
            case Op(cmp, (a, b)) if cmp in COMPARISONS and "float" not in (kind_of(a), kind_of(b)):
                return op(COMPARISONS[cmp], a, b)
        return None
    if name == "where":
        cond, a, b = xs
        if isinstance(cond, Const):
            return a if cond.value else b
        return a if a == b else None
    if len(xs) == 1:
        if name in ("int", "float") and kind_of(xs[0]) == name:
            return xs[0]
        return xs[0] if name in ("floor", "ceil") and kind_of(xs[0]) == "int" else None
    a, b = xs
    if name == "+":
        if _is(a, 0) and _same_kind(b, a):
            return b
        return a if _is(b, 0) and _same_kind(a, b) else None
    if name == "-":
        return a if _is(b, 0) and _same_kind(a, b) else ZERO if a == b and kind_of(a) == "int" else None
    if name == "*":
        if _is(a, 1) and _same_kind(b, a):
            return b
        if _is(b, 1) and _same_kind(a, b):
            return a
        ints = kind_of(a) == kind_of(b) == "int"
        return ZERO if ints and (_is(a, 0) or _is(b, 0)) else None
    if name == "//" and kind_of(a) == "int":
        return a if _is(b, 1) else ZERO if _is(a, 0) else None
    if name == "%" and kind_of(a) == "int":
        return ZERO if _is(b, 1) or _is(a, 0) else None
    if name == "/":
        return a if _is(b, 1) and kind_of(a) == "float" else None
    if name == "pow":
        return a if _is(b, 1) and _same_kind(a, b) else None
    if name in ("min", "max"):
        return a if a == b else None
    if name in ("==", "<=", ">=") and a == b and kind_of(a) != "float":
        return TRUE
    if name in ("!=", "<", ">") and a == b and kind_of(a) != "float":
        return FALSE
    return None


# ---- short names for the operators Python cannot overload faithfully ------------------------------------


def lt(a: ExprLike, b: ExprLike) -> Expr:
    return op("<", a, b)


def le(a: ExprLike, b: ExprLike) -> Expr:
    return op("<=", a, b)


def ge(a: ExprLike, b: ExprLike) -> Expr:
    return op(">=", a, b)


def eq(a: ExprLike, b: ExprLike) -> Expr:
    return op("==", a, b)


def all_of(terms: Iterable[ExprLike]) -> Expr:
    """Conjunction; true when empty."""
    result: Expr = TRUE
    for term in terms:
        result = op("and", result, term)
    return result


def any_of(terms: Iterable[ExprLike]) -> Expr:
    """Disjunction; false when empty."""
    result: Expr = FALSE
    for term in terms:
        result = op("or", result, term)
    return result


def conjuncts(e: Expr) -> list[Expr]:
    """The terms of a conjunction, left to right."""
    match e:
        case Op("and", (a, b)):
            return conjuncts(a) + conjuncts(b)
        case Const(True):
            return []
    return [e]


def minimum(*xs: ExprLike) -> Expr:
    return _chain("min", xs)


def maximum(*xs: ExprLike) -> Expr:
    return _chain("max", xs)


def _chain(name: str, xs: tuple[ExprLike, ...]) -> Expr:
    result = const(xs[0])
    for x in xs[1:]:
        result = op(name, result, x)
    return result


def ceildiv(a: ExprLike, b: ExprLike) -> Expr:
    return (const(a) + (const(b) - 1)) // const(b)


# ---- walking ------------------------------------------------------------------------------------------


def walk(e: Expr) -> Iterator[Expr]:
    """Every node, children first."""
    for child in e.children:
        yield from walk(child)
    yield e


@remembered
def free_vars(e: Expr) -> frozenset[str]:
    """Names of all variables in ``e``."""
    if isinstance(e, Var):
        return frozenset((e.name,))
    return frozenset().union(*(free_vars(c) for c in e.children))


def loads(e: Expr) -> list[Load]:
    """Captured-tensor reads, in order of first appearance."""
    return list(dict.fromkeys(n for n in walk(e) if isinstance(n, Load)))


def inners(e: Expr) -> list[Op]:
    """Inner products of two reads, in order of first appearance."""
    return list(dict.fromkeys(n for n in walk(e) if isinstance(n, Op) and n.name == "inner"))


def without_inners(e: Expr) -> Expr:
    """``e`` with numbers for its inner products: what is left are reads of single elements."""
    return rewrite(e, lambda x: Const(0.0) if isinstance(x, Op) and x.name == "inner" else None)


def substitute(e: Expr, bindings: Mapping[str, ExprLike]) -> Expr:
    """Replace variables by name, refolding what becomes constant."""
    if not bindings or not (free_vars(e) & bindings.keys()):
        return e
    if isinstance(e, Var):
        return const(bindings[e.name])
    return e.rebuild(tuple(substitute(c, bindings) for c in e.children))


def rewrite(e: Expr, rule: Callable[[Expr], Expr | None]) -> Expr:
    """Apply ``rule`` to every node, children first; None keeps the node."""
    if e.children:
        children = tuple(rewrite(c, rule) for c in e.children)
        if children != e.children:
            e = e.rebuild(children)
    changed = rule(e)
    return e if changed is None else changed


def evaluate(e: Expr, env: Mapping[str, Number]) -> Number:
    """The value of ``e`` for Python numbers; a name without a value raises KeyError."""
    match e:
        case Const(value):
            return value
        case Var(name, _):
            return env[name]
        case Op("where", (cond, a, b)):
            return evaluate(a if evaluate(cond, env) else b, env)
        case Op(name, args):
            return OPS[name][1](*(evaluate(a, env) for a in args))
    raise TypeError(f"cannot evaluate {e} without its tensors")


# ---- text ---------------------------------------------------------------------------------------------

_PRECEDENCE = {
    "or": 1, "and": 2, "not": 3, "<": 4, "<=": 4, ">": 4, ">=": 4, "==": 4, "!=": 4, "|": 5, "^": 6, "&": 7,
    "<<": 8, ">>": 8, "+": 9, "-": 9, "*": 10, "/": 10, "//": 10, "%": 10,
}  # fmt: skip
_ATOM = 20


@remembered
def _text(e: Expr) -> tuple[str, int]:
    """Text and binding strength of its outermost operator."""
    match e:
        case Const(value):
            if isinstance(value, float) and not math.isfinite(value):
                return ("nan" if value != value else "inf" if value > 0 else "-inf"), 11
            return repr(value), (_ATOM if isinstance(value, bool) or value >= 0 else 11)
        case Var(name, _):
            return name, _ATOM
        case Load(tensor, index, kind):
            suffix = "" if kind == "float" else f".{kind}"
            return f"{tensor}{suffix}[{', '.join(str(x) for x in index) or '()'}]", _ATOM
        case Op("not", (a,)):
            return f"not {_wrap(a, 3)}", 3
        case Op("-", (Const(0), a)):
            return f"-{_wrap(a, 11)}", 11
        case Op(name, args) if name in _PRECEDENCE:
            p = _PRECEDENCE[name]
            # comparisons do not chain, and the right side of a left-associative operator needs brackets
            left = _wrap(args[0], p + 1 if p == 4 else p)
            return f"{left} {name} {_wrap(args[1], p + 1)}", p
        case Op(name, args):
            return f"{name}({', '.join(str(a) for a in args)})", _ATOM
    raise TypeError(f"not an expression: {e!r}")


def _wrap(e: Expr, strength: int) -> str:
    text, own = _text(e)
    return text if own >= strength else f"({text})"


_AST_OPS: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "pow",
    ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>", ast.Lt: "<",
    ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.And: "and", ast.Or: "or",
}  # fmt: skip


class ExprSyntaxError(ValueError):
    """Text that is not an expression of this language."""


@dataclass(frozen=True, slots=True)
class Lambda:
    """An expression of named float arguments, written ``lambda dot: dot * 0.125``.

    Names that are not parameters are index variables and sizes, and hold integers.
    """

    params: tuple[str, ...]
    body: Expr

    def __str__(self) -> str:
        return f"lambda {', '.join(self.params)}: {self.body}" if self.params else str(self.body)

    def __call__(self, *args: ExprLike) -> Expr:
        return substitute(self.body, dict(zip(self.params, args, strict=True)))


@remembered
def parse(text: str) -> Expr:
    """Read an expression without float arguments.  Raises :class:`ExprSyntaxError`."""
    return _from_ast(_python_ast(text), text, frozenset())


@remembered
def parse_lambda(text: str) -> Lambda:
    """Read a lambda, or an expression as a lambda without parameters.  Raises :class:`ExprSyntaxError`."""
    tree = _python_ast(text)
    if not isinstance(tree, ast.Lambda):
        return Lambda((), _from_ast(tree, text, frozenset()))
    params = tuple(a.arg for a in tree.args.args)
    if ast.unparse(tree.args) != ", ".join(dict.fromkeys(params)):
        raise ExprSyntaxError(f"expected a lambda of plain names, each once, found {text!r}")
    return Lambda(params, _from_ast(tree.body, text, frozenset(params)))


@remembered
def parse_map(text: str) -> tuple[Expr, ...]:
    """Read comma-separated expressions, such as an index map.  Raises :class:`ExprSyntaxError`."""
    if not text.strip():
        return ()
    tree = _python_ast(text)
    return tuple(_from_ast(x, text, frozenset()) for x in (tree.elts if isinstance(tree, ast.Tuple) else [tree]))


def _python_ast(text: str) -> ast.expr:
    if not text.isascii():  # the printer would escape it, and the parser read the escapes as bytes
        raise ExprSyntaxError(f"cannot read the expression {text!r}: it is not ASCII")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:  # the latter for characters that no source may have
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ExprSyntaxError(f"cannot read the expression {text!r}: {reason}") from None
    except (RecursionError, MemoryError):
        raise ExprSyntaxError("the expression is nested too deeply to read") from None


def _from_ast(node: ast.expr, text: str, floats: frozenset[str]) -> Expr:
    def go(x: ast.expr) -> Expr:
        return _from_ast(x, text, floats)

    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            return Const(value)
        case ast.Name(id="inf" | "nan" as name):
            return Const(float(name))
        case ast.Name(id=name):
            return Var(name, "float" if name in floats else "int")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = go(operand)
            return Const(-inner.value) if isinstance(inner, Const) else op("-", 0, inner)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return op("not", go(operand))
        case ast.BinOp(left=left, op=o, right=right) if type(o) in _AST_OPS:
            return op(_AST_OPS[type(o)], go(left), go(right))
        case ast.Compare(left=left, ops=[o], comparators=[right]) if type(o) in _AST_OPS:
            return op(_AST_OPS[type(o)], go(left), go(right))
        case ast.BoolOp(op=o, values=[first, *rest]):
            result = go(first)
            for value in rest:
                result = op(_AST_OPS[type(o)], result, go(value))
            return result
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if len(args) == _ARITY.get(name, -1):
            return op(name, *(go(a) for a in args))
        case ast.Subscript(value=ast.Name(id=name), slice=index):
            return Load(name, _load_index(index, go))
        case ast.Subscript(value=ast.Attribute(value=ast.Name(id=name), attr="int" | "bool" as kind), slice=index):
            return Load(name, _load_index(index, go), kind)
    raise ExprSyntaxError(f"cannot read {ast.unparse(node)!r} in the expression {text!r}")


def _load_index(index: ast.expr, go: Callable[[ast.expr], Expr]) -> tuple[Expr, ...]:
    return tuple(go(x) for x in (index.elts if isinstance(index, ast.Tuple) else [index]))
