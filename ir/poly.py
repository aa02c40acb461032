"""Integer polynomials over atoms: the normal form behind :mod:`.simplify`.

A polynomial maps a monomial (a sorted tuple of atoms) to its integer coefficient; the empty monomial is the
constant.  An atom is any integer expression that is not itself a sum or product.
"""

from __future__ import annotations

from collections.abc import Iterable

from .expr import Const, Expr, Op, kind_of, remembered

Monomial = tuple[Expr, ...]
Poly = dict[Monomial, int]  # never changed once it is made: of_expr gives the same one again


@remembered
def _order(atom: Expr) -> tuple[int, str]:
    text = str(atom)
    return len(text), text


def monomial(atoms: Iterable[Expr]) -> Monomial:
    return tuple(sorted(atoms, key=_order))


def constant(value: int) -> Poly:
    return {(): value} if value else {}


@remembered
def of_expr(e: Expr) -> Poly:
    """The polynomial of an integer expression, its sums and products multiplied out."""
    match e:
        case Const(bool()):
            return constant(int(e.value))
        case Const(int() as value):
            return constant(value)
        case Op("+" | "-" | "*" as name, (a, b)) if kind_of(e) == "int" and "bool" not in (kind_of(a), kind_of(b)):
            if name == "*":
                return multiply(of_expr(a), of_expr(b))
            return add(of_expr(a), of_expr(b), 1 if name == "+" else -1)
    return {(e,): 1}


def add(a: Poly, b: Poly, factor: int = 1) -> Poly:
    """``a + factor * b``."""
    result = dict(a)
    for m, c in b.items():
        total = result.get(m, 0) + factor * c
        if total:
            result[m] = total
        else:
            result.pop(m, None)
    return result


def scale(a: Poly, factor: int) -> Poly:
    return {m: c * factor for m, c in a.items()} if factor else {}


def multiply(a: Poly, b: Poly) -> Poly:
    result: Poly = {}
    for m, c in a.items():
        for n, d in b.items():
            key = monomial(m + n)
            total = result.get(key, 0) + c * d
            if total:
                result[key] = total
            else:
                result.pop(key, None)
    return result


def constant_value(a: Poly) -> int | None:
    """The value of a polynomial without atoms."""
    if not a:
        return 0
    return a[()] if len(a) == 1 and () in a else None


def atoms(a: Poly) -> list[Expr]:
    """The atoms, in order of first appearance."""
    return list(dict.fromkeys(x for m in a for x in m))


def divide_monomial(m: Monomial, by: Monomial) -> Monomial | None:
    """``m / by`` where it has no remainder."""
    rest = list(m)
    for x in by:
        if x not in rest:
            return None
        rest.remove(x)
    return tuple(rest)


def split_linear(a: Poly, x: Expr) -> tuple[Poly, Poly] | None:
    """``(A, B)`` with ``a = A * x + B``, when ``a`` is linear in the atom ``x``."""
    coefficient: Poly = {}
    rest: Poly = {}
    for m, c in a.items():
        n = m.count(x)
        if n > 1:
            return None
        if n:
            i = m.index(x)
            coefficient[m[:i] + m[i + 1 :]] = c
        else:
            rest[m] = c
    return coefficient, rest


def divide(a: Poly, b: Poly) -> tuple[Poly, Poly]:
    """``(Q, R)`` with ``a = Q * b + R``, dividing by the leading term of ``b`` as often as that goes."""
    lead = max(b, key=lambda m: (len(m), [_order(x) for x in m]))
    quotient: Poly = {}
    rest = dict(a)
    for _ in range(16):
        for m, c in rest.items():
            n = divide_monomial(m, lead)
            if n is not None and c % b[lead] == 0:
                step = {n: c // b[lead]}
                break
        else:
            break
        quotient = add(quotient, step)
        rest = add(rest, multiply(step, b), -1)
    return quotient, rest


def to_expr(a: Poly) -> Expr:
    """An expression: positive terms first, the constant last."""
    terms = [(m, c) for m, c in a.items() if m]
    terms.sort(key=lambda t: (t[1] < 0, [_order(x) for x in t[0]]))
    result: Expr = Const(0)
    for m, c in terms:
        product = m[0]
        for x in m[1:]:
            product = product * x
        if abs(c) != 1:
            product = product * Const(abs(c))
        result = result + product if c > 0 else result - product
    c = a.get((), 0)
    return result + c if c >= 0 else result - (-c)
