"""From expressions to integer sets: the bridge to islpy.

A :class:`Space` names the set dimensions (the query row, the key) and turns everything else that an
expression uses into parameters.  Integer expressions become piecewise quasi-affine functions; one that has no
such form is unknown, and a condition on an unknown is taken for true in an upper bound and for false in a
lower bound (and the other way round below a ``not``).

islpy is imported inside, and sets live as long as one question of :func:`within_budget`, in a context of their own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from ...ir.expr import (
    COMPARISONS,
    TRUE,
    Const,
    Expr,
    Op,
    Var,
    conjuncts,
    free_vars,
    kind_of,
    loads,
    op,
    remembered,
    walk,
)
from .bounds import non_negative
from .numeric import integer_bound

if TYPE_CHECKING:
    from islpy import PwAff, Set

T = TypeVar("T")
# isl operations after which a question is given up: some tenths of a second
BUDGET = 400_000
# roundings and choices in a condition, beyond which no question about it has been seen to stay within the budget
MOST_TERMS = 8
_context: ContextVar[Any] = ContextVar("_context")


@cache
def isl() -> Any:
    """The islpy module."""
    import islpy

    return islpy


def context() -> Any:
    """The isl context of the question that is being answered."""
    return _context.get()


def within_budget(question: Callable[[], T], otherwise: Callable[[], T]) -> T:
    """The answer to a question about sets, or ``otherwise`` when it is too hard.

    Each question has a context of its own.  A context keeps memory for later, and what it takes from there costs no
    operations: in a shared one, what was asked before would decide whether a question is still within the budget.
    """
    ctx = isl().Context()
    ctx.set_on_error(isl().on_error.CONTINUE)
    ctx.set_max_operations(BUDGET)
    before = _context.set(ctx)
    try:
        answer = question()
        if not _used_up(ctx):
            return answer
    except Exception as error:
        if not isinstance(error, isl().Error) and not _used_up(ctx):
            raise
    finally:
        _context.reset(before)
    return otherwise()


def _used_up(ctx: Any) -> bool:
    """Is no operation left?  Then the last ones failed, and a few of islpy's functions return None or 0 instead."""
    try:
        isl().Val.zero(ctx)
    except isl().Error:
        return True
    return False


def is_hard(condition: Expr, inner: Iterable[str]) -> bool:
    """Is it known without asking that a set of such points takes more than the budget?

    Each rounding of an inner variable is one more variable, and each choice between two values one more piece.
    """
    names = set(inner)
    terms = {e for e in walk(condition) if isinstance(e, Op) and e.name in _SPLITTING and free_vars(e) & names}
    return len(terms) > MOST_TERMS


_SPLITTING = ("//", "%", "min", "max", "where")


class Space:
    """Sets over ``inner`` variables, with parameters for all else that the given expressions use.

    With ``opaque`` set, a term without inner variables that is not linear, such as ``(N - r + 7) // 8``, becomes a
    parameter of its own: answers stay short, in terms of that expression.  Terms that have no quasi-affine form,
    such as ``B * N``, are always treated so.
    """

    def __init__(self, inner: Sequence[str], exprs: Iterable[Expr], *, opaque: bool = False):
        self.inner = tuple(inner)
        self.opaque = opaque
        self.terms: dict[str, Expr] = {}  # parameter -> the expression that it stands for
        self._named: dict[Expr, str] = {}
        facts: list[Expr] = []
        names: set[str] = set()
        pending = list(exprs)
        while pending:
            e = self.abstract(pending.pop())
            names |= free_vars(e)
            for name, term in list(self.terms.items()):
                if name not in names:
                    names.add(name)
                    known = _facts_of(name, term)
                    facts += known
                    pending += known
        self.params = tuple(sorted(names - set(self.inner)))
        self._open()
        sizes = (op(">=", Var(p), 0) for p in self.params if p not in self.terms)
        self.known = self.upper_all([*sizes, *facts])

    def closed(self) -> Space:
        """The same space for expressions that are abstracted already."""
        rest = copy.copy(self)
        rest.opaque = False
        return rest

    def _open(self) -> None:
        self.space = isl().Space.create_from_names(context(), set=list(self.inner), params=list(self.params))
        self._local = isl().LocalSpace.from_space(self.space)
        self.universe = isl().Set.universe(self.space)
        self.empty = isl().Set.empty(self.space)

    def without(self, name: str) -> Space:
        """The space that is left when ``name`` is projected out; its expressions are abstracted already."""
        rest = copy.copy(self)
        rest.inner = tuple(n for n in self.inner if n != name)
        rest.opaque = False
        rest.known = self.known.project_out(isl().dim_type.set, self.inner.index(name), 1)
        rest._open()
        return rest

    # ---- terms that stand for themselves ---------------------------------------------------------------------

    def abstract(self, e: Expr) -> Expr:
        """Replace the terms that become parameters of their own."""
        if not e.children:
            return e
        fixed = kind_of(e) == "int" and not free_vars(e) & set(self.inner) and not loads(e)
        if fixed and not _sum(e) and not (self.opaque is False and _quasi_affine(e)):
            return Var(self._name(e))
        return e.rebuild(tuple(self.abstract(c) for c in e.children))

    def _name(self, term: Expr) -> str:
        if term not in self._named:
            name = f"_{len(self._named)}"
            self._named[term] = name
            self.terms[name] = term
        return self._named[term]

    def variable(self, name: str) -> PwAff:
        kind = isl().dim_type
        where = (kind.set, self.inner.index(name)) if name in self.inner else (kind.param, self.params.index(name))
        return isl().PwAff.from_aff(isl().Aff.var_on_domain(self._local, *where))

    def number(self, value: int) -> PwAff:
        return isl().PwAff.from_aff(isl().Aff.val_on_domain(self._local, isl().Val.int_from_si(context(), value)))

    # ---- conditions ------------------------------------------------------------------------------------------

    def upper(self, condition: Expr) -> Set:
        """A set that holds every point where the condition may hold."""
        return self._condition(self.abstract(condition), True)

    def lower(self, condition: Expr) -> Set:
        """A set of points where the condition certainly holds."""
        return self._condition(self.abstract(condition), False)

    def upper_all(self, conditions: Iterable[Expr]) -> Set:
        result = self.universe
        for c in conditions:
            result = result & self.upper(c)
        return result

    def _condition(self, e: Expr, upper: bool) -> Set:
        match e:
            case Const(value):
                return self.universe if value else self.empty
            case Op("and", (a, b)):
                return self._condition(a, upper) & self._condition(b, upper)
            case Op("or", (a, b)):
                return self._condition(a, upper) | self._condition(b, upper)
            case Op("not", (a,)):
                return self._condition(a, not upper).complement()
            case Op("where", (c, a, b)):
                yes = self._condition(c, upper) & self._condition(a, upper)
                return yes | (self._condition(c, not upper).complement() & self._condition(b, upper))
            case Op("==" | "!=" as name, (a, b)) if kind_of(a) == kind_of(b) == "bool":
                both = op("or", op("and", a, b), op("and", op("not", a), op("not", b)))
                return self._condition(both if name == "==" else op("not", both), upper)
            case Op(name, (a, b)) if name in COMPARISONS:
                compared = self._comparison(name, a, b)
                if compared is not None:
                    return compared
        return self.universe if upper else self.empty

    def _comparison(self, name: str, a: Expr, b: Expr) -> Set | None:
        conjunction = _as_conjunction(name, a, b)
        if conjunction is not None:  # one convex set instead of a union
            return self._both(*conjunction)
        negated = _as_conjunction(COMPARISONS[name], a, b)
        if negated is not None:
            both = self._both(*negated)
            return None if both is None else both.complement()
        if kind_of(a) == "float" and isinstance(a, Const):
            a, b, name = b, a, {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(name, name)
        if isinstance(b, Const) and isinstance(b.value, float):
            rounded = integer_bound(name, b.value)
            if rounded is None:
                return None
            b = rounded
        x, y = self.integer(a), self.integer(b)
        if x is None or y is None:
            return None
        match name:
            case "<":
                return x.lt_set(y)
            case "<=":
                return x.le_set(y)
            case ">":
                return x.gt_set(y)
            case ">=":
                return x.ge_set(y)
            case "==":
                return x.eq_set(y)
        return x.ne_set(y)

    def _both(self, first: tuple[str, Expr, Expr], second: tuple[str, Expr, Expr]) -> Set | None:
        x, y = self._comparison(*first), self._comparison(*second)
        return None if x is None or y is None else x & y

    # ---- integers --------------------------------------------------------------------------------------------

    def integer(self, e: Expr) -> PwAff | None:
        """An abstracted integer expression as a piecewise quasi-affine function, or None."""
        match e:
            case Const(value):
                return self.number(int(value)) if not isinstance(value, float) else None
            case Var(name, "int"):
                return self.variable(name)
            case Op("float", (a,)) if kind_of(a) == "int":
                return self.integer(a)
            case Op("int", (a,)):
                return self._indicator(a) if kind_of(a) == "bool" else self.integer(a) if kind_of(a) == "int" else None
            case Op("where", (c, a, b)):
                return self._choice(c, a, b)
            case Op("abs", (a,)):
                x = self.integer(a)
                return None if x is None else x.max(x.neg())
            case Op("floor" | "ceil" as name, (Op("/", (a, Const(int() as by))),)) if by > 0:
                # exact in float arithmetic for any index that fits a tensor
                return self.integer(a // by if name == "floor" else 0 - (0 - a) // by)
            case Op(name, (a, b)) if kind_of(a) == kind_of(b) == "int":
                return self._binary(name, a, b)
        return self._indicator(e) if kind_of(e) == "bool" else None

    def _binary(self, name: str, a: Expr, b: Expr) -> PwAff | None:
        if name == "*" and isinstance(a, Const):
            a, b = b, a
        x = self.integer(a)
        if x is None:
            return None
        if name in ("+", "-", "min", "max"):
            y = self.integer(b)
            return None if y is None else {"+": x.add, "-": x.sub, "min": x.min, "max": x.max}[name](y)
        if not isinstance(b, Const):
            return None
        by = int(b.value)
        val = isl().Val.int_from_si
        match name:
            case "*":
                return x.scale_val(val(context(), by))
            case "//" if by != 0:
                return x.scale_down_val(val(context(), by)).floor()
            case "%" if by > 0:
                return x.mod_val(val(context(), by))
            case "&" if by >= 0 and (by + 1) & by == 0:
                return x.mod_val(val(context(), by + 1))
            case "&" if by < 0 and -by & (-by - 1) == 0:
                return x.sub(x.mod_val(val(context(), -by)))
            case "<<" if 0 <= by < 32:
                return x.scale_val(val(context(), 1 << by))
            case ">>" if 0 <= by < 63:
                return x.scale_down_val(val(context(), 1 << by)).floor()
        return None

    def _choice(self, c: Expr, a: Expr, b: Expr) -> PwAff | None:
        x, y = self.integer(a), self.integer(b)
        yes, maybe = self._condition(c, False), self._condition(c, True)
        if x is None or y is None or not maybe.is_subset(yes):
            return None
        return x.intersect_domain(yes).union_add(y.intersect_domain(yes.complement()))

    def _indicator(self, condition: Expr) -> PwAff | None:
        return self._choice(condition, Const(1), Const(0))


def _as_conjunction(name: str, a: Expr, b: Expr) -> tuple[tuple[str, Expr, Expr], tuple[str, Expr, Expr]] | None:
    """``abs(x) <= y`` as ``x <= y and -x <= y``; ``max(x, z) < y`` and ``min(x, z) > y`` likewise."""
    swap = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
    for cmp, small, large in ((name, a, b), (swap.get(name, ""), b, a)):
        match small:
            case Op("abs", (x,)) if cmp in ("<", "<="):
                return (cmp, x, large), (cmp, 0 - x, large)
            case Op("max", (x, z)) if cmp in ("<", "<="):
                return (cmp, x, large), (cmp, z, large)
            case Op("min", (x, z)) if cmp in (">", ">="):
                return (cmp, x, large), (cmp, z, large)
    return None


def _sum(e: Expr) -> bool:
    """Is ``e`` a sum, or a multiple by a constant?"""
    match e:
        case Op("+" | "-", _):
            return True
        case Op("*", (a, b)):
            return isinstance(a, Const) or isinstance(b, Const)
    return False


@remembered
def _linear(e: Expr) -> bool:
    match e:
        case Const(value):
            return isinstance(value, int)
        case Var(_, kind):
            return kind == "int"
        case Op("+" | "-", args):
            return all(_linear(a) for a in args)
        case Op("*", (a, b)):
            return (isinstance(a, Const) and _linear(b)) or (isinstance(b, Const) and _linear(a))
    return False


@remembered
def _quasi_affine(e: Expr) -> bool:
    match e:
        case Op("//" | "%" | "<<" | ">>" | "&", (a, b)):
            return _quasi_affine(a) and isinstance(b, Const)
        case Op("*", (a, b)):
            return (isinstance(a, Const) and _quasi_affine(b)) or (isinstance(b, Const) and _quasi_affine(a))
        case Op("+" | "-" | "min" | "max" | "abs", args):
            return all(_quasi_affine(a) for a in args)
        case Op("where", (_, a, b)):
            return _quasi_affine(a) and _quasi_affine(b)
        case Op("int", (a,)):
            return kind_of(a) == "bool"
    return _linear(e)


def _facts_of(name: str, term: Expr) -> list[Expr]:
    """What is known of a parameter that stands for ``term``."""
    p = Var(name)
    match term:
        case Op("//", (a, Const(int() as by))) if by > 0 and not loads(a):
            return [op("<=", p * by, a), op("<", a, p * by + by)]
        case Op("%", (_, Const(int() as by))) if by > 0:
            return [op("<=", 0, p), op("<", p, by)]
        case Op("min" | "max" as kind, args):
            return [op("<=" if kind == "min" else ">=", p, a) for a in args]
        case Op("abs", (a,)):
            return [op(">=", p, a), op(">=", p, 0 - a)]
        case Op("*", _) if non_negative(term):
            return [op(">=", p, 0)]
        case Op("pow", (Const(int() as base), Var())) if base > 0:
            return [op(">=", p, 1)]
    return []


def holds_under(facts: Iterable[Expr]) -> list[Expr]:
    """Facts, one conjunct each, in a fixed order."""
    return [c for f in dict.fromkeys(facts) for c in conjuncts(f) if c != TRUE]
