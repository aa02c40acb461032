"""Scalar expressions as MLIR: scalars where every lane agrees, vectors where lanes differ.

Integers that are the same for all lanes are ``i64``.  In the lanes they are ``i32`` wherever an expression
grows at most linearly with its variables, which the launcher makes sure of (see :class:`Limits`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ...ir.expr import Const, Expr, Load, Op, Var, kind_of
from .builder import Builder, Val, vec
from .vecmath import VectorMath

COMPARE_INT = {"<": "slt", "<=": "sle", ">": "sgt", ">=": "sge", "==": "eq", "!=": "ne"}
COMPARE_FLOAT = {"<": "olt", "<=": "ole", ">": "ogt", ">=": "oge", "==": "oeq", "!=": "une"}
FLOAT_ARITH = {"+": "addf", "-": "subf", "*": "mulf", "/": "divf"}
INT_ARITH = {"+": "addi", "-": "subi", "*": "muli", "&": "andi", "|": "ori", "^": "xori", "<<": "shli", ">>": "shrsi"}


@dataclass
class Limits:
    """How large sizes may be: ``factor * size`` must stay below 2**30."""

    factor: int = 1

    def linear(self, e: Expr) -> tuple[int, int] | None:
        """Constants (a, c) with ``abs(e) <= a * largest variable + c``; None where e may grow faster."""
        match e:
            case Const(value):
                return None if isinstance(value, float) else (0, abs(int(value)))
            case Var(_, "int"):
                return 1, 0
            case Op("+" | "-", (x, y)):
                a, b = self.linear(x), self.linear(y)
                return None if a is None or b is None else (a[0] + b[0], a[1] + b[1])
            case Op("*", (Const(int(c)), x) | (x, Const(int(c)))):
                a = self.linear(x)
                return None if a is None else (abs(c) * a[0], abs(c) * a[1])
            case Op("//", (x, y)) if self.linear(y) is not None:  # by an integer
                a = self.linear(x)
                return None if a is None else (a[0], a[1] + 1)
            case Op("%", (_, y)):
                return self.linear(y)
            case Op("min" | "max" | "where" | "abs", args):
                parts = [self.linear(x) for x in (args[1:] if e.name == "where" else args)]
                known = [p for p in parts if p is not None]
                return (max(a for a, _ in known), max(c for _, c in known)) if len(known) == len(parts) else None
        return (0, 1) if kind_of(e) == "bool" else None

    def fits32(self, e: Expr) -> bool:
        """May ``e`` be computed in 32 bits?  Records what that asks of the sizes."""
        bound = self.linear(e)
        if bound is None or bound[0] >= 2**12 or bound[1] >= 2**30:
            return False
        self.factor = max(self.factor, bound[0])
        return True


@dataclass
class Scope:
    """Values of the free names of an expression, and what was already emitted for it."""

    names: dict[str, Val | Callable[[], Val]]
    live: Callable[[], Val] | None = None  # lanes that may touch memory
    first: Callable[[], Val] | None = None  # index of lane 0 along the axis in the lanes
    known: Mapping[Expr, Callable[[], Val]] = field(default_factory=dict)  # expressions that need no computing
    apart: Mapping[Load, Callable[[], Val]] = field(default_factory=dict)  # how to read what lies apart in memory
    memo: dict[Expr, Val] = field(default_factory=dict)

    def lookup(self, name: str) -> Val:
        value = self.names[name]
        if callable(value):
            value = self.names[name] = value()
        return value


class Expressions:
    """Emits expressions; ``read`` emits an element of a captured tensor."""

    def __init__(self, math: VectorMath, read: Callable[[Load, list[Val], Scope], Val]):
        self.b, self.math, self.lanes, self.float = math.b, math, math.lanes, math.element
        self.limits = Limits()
        self._read = read

    def in_another(self, builder: Builder) -> Expressions:
        """The same for another function."""
        return Expressions(VectorMath(builder, self.math.target, self.float), self._read)

    def emit(self, e: Expr, scope: Scope) -> Val:
        if e not in scope.memo:
            scope.memo[e] = scope.known[e]() if e in scope.known else self._emit(e, scope)
        return scope.memo[e]

    def scalar(self, e: Expr, scope: Scope) -> Val:
        """An integer expression as one i64."""
        value = self.emit(e, scope)
        assert not value.lanes, f"{e} differs between lanes"
        return self.as_int(value, 64)

    def vector(self, e: Expr, scope: Scope) -> Val:
        """A float expression as a lane vector."""
        return self.b.broadcast(self.as_float(self.emit(e, scope)), self.lanes)

    # ---- conversions ----------------------------------------------------------------------------------

    def as_float(self, v: Val) -> Val:
        type = vec(v.lanes, self.float)
        if v.is_float:
            if v.element == self.float:
                return v
            return self.b.cast("extf" if v.element in ("bf16", "f16") or self.float == "f64" else "truncf", v, type)
        return self.b.cast("uitofp" if v.element == "i1" else "sitofp", v, type)

    def as_int(self, v: Val, bits: int) -> Val:
        type = vec(v.lanes, f"i{bits}")
        if v.element == "i1":
            return self.b.cast("extui", v, type)
        assert not v.is_float, f"{v} is not an integer"
        if v.type == type:
            return v
        return self.b.cast("extsi" if int(v.element[1:]) < bits else "trunci", v, type)

    def as_bool(self, v: Val) -> Val:
        if v.element == "i1":
            return v
        if v.is_float:
            return self.b.cmpf("une", v, self.b.real(0.0, v.type))
        return self.b.cmpi("ne", v, self.b.integer(0, v.type))

    def _alike(self, *values: Val) -> list[Val]:
        """All vectors if one is."""
        lanes = max(v.lanes for v in values)
        return [self.b.broadcast(v, lanes) if lanes else v for v in values]

    # ---- nodes ----------------------------------------------------------------------------------------

    def _emit(self, e: Expr, scope: Scope) -> Val:
        match e:
            case Const(bool(value)):
                return self.b.boolean(value)
            case Const(int(value)):
                return self.b.integer(value)
            case Const(float(value)):
                return self.b.real(value, self.float)
            case Var(name, _):
                return scope.lookup(name)
            case Load(_, index, _):
                return self._read(e, [self.emit(x, scope) for x in index], scope)
            case Op("exp2", (Op("-", (Op("*", (x, y)) as product, z)) as power,)) if kind_of(product) == "float":
                parts = (self.vector(part, scope) for part in (x, y, z))
                return self.math.exp2(self.vector(power, scope), (next(parts), next(parts), next(parts)))
            case Op("+" | "-") if kind_of(e) == "float" and (factors := _product_and_rest(e)):
                return self._fma(*factors, scope)
            case Op(name, args):
                return self._op(e, name, [self.emit(a, scope) for a in args])
        raise TypeError(f"not an expression: {e!r}")

    def _fma(self, x: Expr, y: Expr, rest: Expr, flip: str, scope: Scope) -> Val:
        """``x * y + rest`` in one rounding; ``flip`` names the term to negate."""
        a, b, c = self._alike(*(self.as_float(self.emit(part, scope)) for part in (x, y, rest)))
        if flip == "rest":
            c = self.b.pure(f"arith.negf {c.ssa} : {c.type}", c.type)
        elif flip == "product":
            b = self.b.pure(f"arith.negf {b.ssa} : {b.type}", b.type)
        return self.b.fma(a, b, c)

    def _op(self, e: Op, name: str, args: list[Val]) -> Val:
        b = self.b
        if name in COMPARE_INT:
            x, y = self._promote(e.args, args)
            return b.cmpf(COMPARE_FLOAT[name], x, y) if x.is_float else b.cmpi(COMPARE_INT[name], x, y)
        if name in ("and", "or"):
            x, y = self._alike(*map(self.as_bool, args))
            return b.binary("andi" if name == "and" else "ori", x, y)
        if name == "not":
            x = self.as_bool(args[0])
            return b.binary("xori", x, b.boolean(True, x.lanes))
        if name == "where":
            cond = self.as_bool(args[0])
            if kind_of(e) == "bool":
                cond, x, y = self._alike(cond, *map(self.as_bool, args[1:]))
            else:
                x, y = self._promote(e.args[1:], args[1:], in_lanes=cond.lanes > 0)
                cond, x, y = self._alike(cond, x, y)
            return b.select(cond, x, y)
        if name == "float":
            return self.as_float(args[0])
        if name in ("int", "floor", "ceil"):
            return self._to_int(name, args[0])
        if kind_of(e) == "float":
            return self._float_op(name, e, args)
        return self._int_op(name, e, args)

    def _promote(self, exprs: tuple[Expr, ...], args: list[Val], *, in_lanes: bool = False) -> list[Val]:
        """Operands of one op in one type."""
        if any(v.is_float for v in args):
            return self._alike(*map(self.as_float, args))
        return self._alike(*self._ints(exprs, args, in_lanes))

    def _ints(self, exprs: tuple[Expr, ...], args: list[Val], in_lanes: bool) -> list[Val]:
        lanes = in_lanes or any(v.lanes for v in args)
        narrow = lanes and all(self._narrow(x, v) for x, v in zip(exprs, args, strict=True))
        return [self.as_int(v, 32 if narrow else 64) for v in args]

    def _narrow(self, e: Expr, v: Val) -> bool:
        return (v.lanes > 0 and v.element in ("i32", "i16", "i8", "i1")) or self.limits.fits32(e)

    def _to_int(self, name: str, v: Val) -> Val:
        if not v.is_float:
            return self.as_int(v, 64) if v.element == "i1" else v
        if name != "int":
            v = self.b.unary(name, v)
        return self.b.cast("fptosi", v, vec(v.lanes, "i64"))

    def _float_op(self, name: str, e: Op, args: list[Val]) -> Val:
        b, m = self.b, self.math
        if name == "pow":
            return self._power(e, args)
        args = self._alike(*map(self.as_float, args))
        if name == "-" and e.args[0] == Const(0):
            return b.pure(f"arith.negf {args[1].ssa} : {args[1].type}", args[1].type)
        if name in FLOAT_ARITH:
            return b.binary(FLOAT_ARITH[name], args[0], args[1])
        if name == "//":
            return b.unary("floor", b.binary("divf", args[0], args[1]))
        if name == "%":
            quotient = b.unary("floor", b.binary("divf", args[0], args[1]))
            return b.binary("subf", args[0], b.binary("mulf", quotient, args[1]))
        if name in ("max", "min"):
            x, y = args
            wins = b.cmpf("ogt" if name == "max" else "olt", x, y)
            # a NaN in either operand is the result
            return b.select(b.cmpf("uno", x, x), x, b.select(wins, x, y))
        if name == "abs":
            return b.unary("absf", args[0])
        if name == "sqrt":
            return b.unary("sqrt", args[0])
        x = b.broadcast(args[0], self.lanes)
        functions = {"exp": m.exp, "exp2": m.exp2, "log": m.log, "log2": m.log2, "tanh": m.tanh, "sigmoid": m.sigmoid}
        result = m.library(name, x) if name in ("sin", "cos") else functions[name](x)
        if args[0].lanes:
            return result
        return b.pure(f"vector.extract {result.ssa}[0] : {self.float} from {result.type}", self.float)

    def _power(self, e: Op, args: list[Val]) -> Val:
        b = self.b
        base, exponent = map(self.as_float, args)
        if isinstance(e.args[1], Const) and float(e.args[1].value).is_integer() and 0 <= e.args[1].value <= 8:
            result = b.real(1.0, base.type)
            for _ in range(int(e.args[1].value)):
                result = b.binary("mulf", result, base)
            return result
        x, y = self._alike(base, exponent)
        return b.pure(f"math.powf {x.ssa}, {y.ssa} : {x.type}", x.type)

    def _int_op(self, name: str, e: Op, args: list[Val]) -> Val:
        b = self.b
        if name == "pow":
            return self.as_int(self._to_int("int", self._power(e, args)), 64)
        lanes = any(v.lanes for v in args)
        # the result's own size counts too: a sum of two narrow values may be wide
        narrow = lanes and self.limits.fits32(e) and all(map(self._narrow, e.args, args))
        parts = [self.as_int(v, 32 if narrow else 64) for v in args]
        parts = self._alike(*parts)
        if name == "abs":
            zero = b.integer(0, parts[0].type)
            return b.binary("maxsi", parts[0], b.binary("subi", zero, parts[0]))
        x, y = parts
        if name in ("min", "max"):
            return b.binary("minsi" if name == "min" else "maxsi", x, y)
        if name in INT_ARITH:
            return b.binary(INT_ARITH[name], x, y)
        return self._divide(name, e.args[1], x, y)

    def _divide(self, name: str, divisor: Expr, x: Val, y: Val) -> Val:
        """Floor division or its remainder."""
        b = self.b
        known = divisor.value if isinstance(divisor, Const) and isinstance(divisor.value, int) else 0
        if known > 0 and known & (known - 1) == 0:
            if name == "//":
                return b.binary("shrsi", x, b.integer(known.bit_length() - 1, x.type))
            return b.binary("andi", x, b.integer(known - 1, x.type))
        zero = b.integer(0, x.type)
        if not isinstance(divisor, Const):
            # sizes are positive wherever the result counts; a trap on 0 would end the process
            y = b.select(b.cmpi("eq", y, zero), b.integer(1, y.type), y)
        if x.lanes and x.element == "i32" and not isinstance(divisor, Const):
            # no vector integer division in hardware; double is exact enough for the floor of 32-bit quotients
            wide = vec(x.lanes, "f64")
            ratio = b.binary("divf", b.cast("sitofp", x, wide), b.cast("sitofp", y, wide))
            quotient = b.cast("fptosi", b.unary("floor", ratio), x.type)
            return quotient if name == "//" else b.binary("subi", x, b.binary("muli", quotient, y))
        truncated = b.binary("divsi", x, y)
        rest = b.binary("subi", x, b.binary("muli", truncated, y))
        opposite = b.cmpi("slt", b.binary("xori", rest, y), zero)
        adjust = b.binary("andi", opposite, b.cmpi("ne", rest, zero))
        if name == "%":
            return b.select(adjust, b.binary("addi", rest, y), rest)
        return b.binary("subi", truncated, b.cast("extui", adjust, x.type))


def _product_and_rest(e: Op) -> tuple[Expr, Expr, Expr, str] | None:
    """``(x, y, rest, term to negate)`` of ``x * y + rest`` in any of its forms."""
    product, rest = e.args
    flip = "rest" if e.name == "-" else ""
    if not (isinstance(product, Op) and product.name == "*"):
        product, rest = rest, product
        flip = "product" if e.name == "-" else ""
    if not (isinstance(product, Op) and product.name == "*" and kind_of(product) == "float"):
        return None
    x, y = product.args
    return x, y, rest, flip
