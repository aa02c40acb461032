"""Symbolic derivatives of scalar expressions.

``derivative(parse_lambda("lambda dot: dot * 0.125 + bias[i]").body, dot)`` is ``0.125``.  What can be said in terms
of the value itself is (``1 - tanh(x)**2``), so that nothing overflows that the value does not.

At kinks the conventions are PyTorch's: ``abs`` has slope 0 at 0, ``max`` and ``min`` of equal numbers share the slope,
``where`` passes on that of the arm it picks.  Between a number and a bound that is a literal, as clamps are written,
the number has the whole slope at the bound; but at 0 ``max(x, 0)`` has slope 0, as ``relu`` has.
"""

from __future__ import annotations

import math

from .expr import Const, Expr, ExprLike, Load, Op, Var, const, kind_of, op

_ZERO = Const(0.0)
# steps, and functions whose values are integers or conditions
_FLAT = frozenset(("//", "floor", "ceil", "int", "&", "|", "^", "<<", ">>", "and", "or", "not"))
_FLAT |= {"<", "<=", ">", ">=", "==", "!="}
_FLAT |= {"inner"}  # varies as a whole: what its operands' elements do to it is a sum over pairs


def derivative(e: Expr, of: Var | Load | Op) -> Expr:
    """The derivative of ``e`` with respect to the float variable ``of``, to every read of one element, or to an
    inner product of two reads, which are constants themselves.

    Two reads are of one element if their indices are equal as expressions; other reads of that tensor, and the
    indices inside ``e``, are constants.
    """
    result = _Derivative(of)(e)
    return result if kind_of(result) == "float" else op("float", result)


class _Derivative:
    def __init__(self, of: Var | Load | Op):
        self.of = of
        self._memo: dict[Expr, Expr] = {}

    def __call__(self, e: Expr) -> Expr:
        if e not in self._memo:
            self._memo[e] = self._derive(e)
        return self._memo[e]

    def _derive(self, e: Expr) -> Expr:
        if e == self.of:
            return Const(1.0)
        match e:
            case Op(name, _) if name in _FLAT:
                return _ZERO
            case Op("where", (cond, a, b)):
                return _where(cond, self(a), self(b))
            case Op("pow", (a, Const())):
                return _times(self(a), _power_slope(a, e.args[1]))
            case Op(name, (a,)):
                da = self(a)
                return da if _is_zero(da) else _chain(name, e, a, da)
            case Op(name, (a, b)):
                da, db = self(a), self(b)
                return _ZERO if _is_zero(da) and _is_zero(db) else _binary(name, e, a, b, da, db)
        return _ZERO  # a number, another variable or another element


def _chain(name: str, e: Expr, a: Expr, da: Expr) -> Expr:
    """The derivative of ``e = name(a)``."""
    match name:
        case "float":
            return da
        case "abs":
            return _where(op(">", a, 0.0), da, _where(op("<", a, 0.0), _times(da, -1.0), _ZERO))
        case "exp":
            return _times(da, e)
        case "exp2":
            return _times(_times(da, e), math.log(2))
        case "log":
            return _over(da, a)
        case "log2":
            return _times(_over(da, a), 1 / math.log(2))
        case "sqrt":
            return _times(_over(da, e), 0.5)
        case "tanh":
            return _times(da, Const(1.0) - e * e)
        case "sigmoid":
            return _times(da, e * (Const(1.0) - e))
        case "sin":
            return _times(da, op("cos", a))
        case "cos":
            return _times(_times(da, op("sin", a)), -1.0)
    raise TypeError(f"there is no rule for the derivative of {name}, in {e}")


def _binary(name: str, e: Expr, a: Expr, b: Expr, da: Expr, db: Expr) -> Expr:
    """The derivative of ``e = name(a, b)``; at least one of the arguments' own is not zero."""
    match name:
        case "+":
            return _plus(da, db)
        case "-":
            return _plus(da, _times(db, -1.0))
        case "*":
            return _plus(_times(da, b), _times(db, a))
        case "/":
            return _plus(_over(da, b), _times(_over(_times(db, e), b), -1.0))
        case "%":
            return _plus(da, _times(_times(db, op("float", op("floor", op("/", a, b)))), -1.0))
        case "pow":  # with a varying exponent; 0 ** b has slope 0 in b, as PyTorch says
            base = _times(da, _times(op("pow", a, b - 1.0), b))
            return _plus(base, _where(op(">", a, 0.0), _times(_times(db, e), op("log", a)), _ZERO))
        case "max" | "min":
            return _extreme(name, a, b, da, db)
    raise TypeError(f"there is no rule for the derivative of {name}, in {e}")


def _extreme(name: str, a: Expr, b: Expr, da: Expr, db: Expr) -> Expr:
    first, second = (">", "<") if name == "max" else ("<", ">")
    if isinstance(a, Const):
        a, b, da, db = b, a, db, da
    if isinstance(b, Const):
        relu = name == "max" and b.value == 0
        return _where(op(first if relu else f"{first}=", a, b), da, db)
    return _where(op(first, a, b), da, _where(op(second, a, b), db, _times(_plus(da, db), 0.5)))


def _power_slope(a: Expr, exponent: Expr) -> Expr:
    """The derivative of ``a ** exponent`` by ``a``; the exponent is a literal."""
    assert isinstance(exponent, Const)
    n = exponent.value
    if n in (0, 1):
        return Const(float(n))
    return _times(a if n == 2 else op("pow", a, n - 1), float(n))


# ---- arithmetic that gathers constant factors ------------------------------------------------------------


def _is_zero(e: Expr) -> bool:
    return isinstance(e, Const) and e.value == 0


def _factor(e: Expr) -> tuple[float, Expr | None]:
    """``e`` as a number times the rest; None for a rest of one."""
    match e:
        case Const(value):
            return float(value), None
        case Op("*", (a, Const(value))) | Op("*", (Const(value), a)):
            return float(value), a
        case Op("-", (Const(0), a)):
            return -1.0, a
    return 1.0, e


def _times(a: Expr, b: ExprLike) -> Expr:
    """``a * b``; a choice with an arm of zero keeps it, so that no infinity next to it becomes NaN."""
    b = const(b)
    if _is_zero(a) or _is_zero(b):
        return _ZERO
    for x, y in ((a, b), (b, a)):
        if isinstance(x, Op) and x.name == "where" and any(isinstance(arm, Const) for arm in x.args[1:]):
            return _where(x.args[0], _times(x.args[1], y), _times(x.args[2], y))
    (m, x), (n, y) = _factor(a), _factor(b)  # type: ignore[assignment]
    rest = y if x is None else x if y is None else x * y
    return _scaled(rest, m * n)


def _scaled(rest: Expr | None, c: float) -> Expr:
    if rest is None:
        return Const(c)
    match rest:
        case Op("/", (Const(value), b)):
            return Const(value * c) / b
    return rest if c == 1 else -rest if c == -1 else rest * c


def _over(a: Expr, b: Expr) -> Expr:
    if isinstance(b, Const) and b.value:
        return _times(a, 1.0 / b.value)
    if _is_zero(a):
        return _ZERO
    if isinstance(a, Op) and a.name == "where" and any(isinstance(arm, Const) for arm in a.args[1:]):
        return _where(a.args[0], _over(a.args[1], b), _over(a.args[2], b))
    c, rest = _factor(a)
    return Const(c) / b if rest is None else _scaled(rest / b, c)


def _plus(a: Expr, b: Expr) -> Expr:
    if _is_zero(a):
        return b
    if _is_zero(b):
        return a
    c, rest = _factor(b)
    if a == b:
        return _times(a, 2.0)
    return a - _scaled(rest, -c) if c < 0 and rest is not None else a + b


def _where(cond: Expr, a: Expr, b: Expr) -> Expr:
    return op("where", cond, a, b)
