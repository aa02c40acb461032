"""Masks in words: ``abs(i - j) <= 256 and j <= i`` as "causal; window of 256 keys on each side"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import poly
from ..ir.attributes import Dim
from ..ir.expr import TRUE, Const, Expr, Op, Var, conjuncts, free_vars, loads, op


def in_words(mask: Expr, row: str, key: str) -> str:
    """What ``mask`` lets a query see; a condition without a name is quoted as it is."""
    if mask == TRUE:
        return "every key"
    if mask == Const(False):
        return "no key"
    return _Words(Var(row), Var(key)).conjunction(mask)


def set_text(dims: Sequence[Dim], key: Dim, mask: Expr) -> str:
    """The live pairs as a set: ``{ (i, j) : 0 <= i < N, 0 <= j < M, j <= i }``."""
    row = dims[-1]
    used = [d for d in dims[:-1] if d.name in free_vars(mask) | free_vars(row.extent) | free_vars(key.extent)]
    names = ", ".join([*(d.name for d in used), row.name, key.name])
    bounds = [f"0 <= {d.name} < {d.extent}" for d in (*used, row, key)]
    return f"{{ ({names}) : {', '.join([*bounds, *(str(c) for c in conjuncts(mask))])} }}"


@dataclass(frozen=True)
class _Words:
    row: Var
    key: Var

    def conjunction(self, mask: Expr) -> str:
        terms = [t for c in conjuncts(mask) for t in self._split(c)]
        # the sides of one band are one window
        back = [t for t in terms if isinstance(t, _Band)]
        words = [self._band(back)] if back else []
        words += [t for t in terms if isinstance(t, str)]
        return "; ".join(dict.fromkeys(words))

    def _split(self, c: Expr) -> list[str | _Band]:
        match c:
            case Op("or", _):
                return [" or ".join(_bracket(self.conjunction(d)) for d in _disjuncts(c))]
            case Op("<=" | "<" | ">=" | ">", (a, b)):
                return [self._comparison(c, a, b)]
            case Op("==", (a, b)):
                return [self._equality(c, a, b)]
        return [self._other(c)]

    def _comparison(self, c: Op, a: Expr, b: Expr) -> str | _Band:
        if c.name in (">", ">="):
            a, b = b, a
        strict = c.name in ("<", ">")
        match a:
            case Op("abs", (inner,)) if not free_vars(b) & {self.row.name, self.key.name}:
                middle = self._distance(inner)
                width = b - 1 if strict else b
                if middle == {}:
                    return _Band(width, width)
                if grid := self._grid(inner):
                    return f"{grid} within {_text(width)}"
        gap = poly.add(poly.of_expr(b), poly.of_expr(a), -1)  # what must be >= 0, or > 0
        if strict:
            gap = poly.add(gap, poly.constant(1), -1)
        i, j = ((self.row,), (self.key,))
        slopes = gap.get(i, 0), gap.get(j, 0)
        rest = {m: k for m, k in gap.items() if m not in (i, j)}
        names = {self.row.name, self.key.name}
        if any(free_vars(x) & names for m in rest for x in m):
            return self._other(c)
        bound = poly.to_expr(rest)
        match slopes:
            case (1, -1):  # j <= i + bound
                return _Band(None, bound)
            case (-1, 1):  # i - j <= bound
                return _Band(bound, None)
            case (0, -1):
                return f"the first {_text(bound + 1)} keys"
            case (0, 1):
                return f"keys from {_text(0 - bound)} on"
            case (-1, 0):
                return f"for the first {_text(bound + 1)} queries"
            case (1, 0):
                return f"for queries from {_text(0 - bound)} on"
        return self._other(c)

    def _equality(self, c: Op, a: Expr, b: Expr) -> str:
        match a, b:
            case Op("%", (x, Const() as n)), Const(0) if self._distance(x) is not None:
                offset = self._distance(x)
                return f"every {_ordinal(n.value)} key" + (f", offset {poly.to_expr(offset)}" if offset else "")
            case Op("%", (x, n)), Op("%", (y, m)) if n == m and self._distance(op("-", x, y)) == {}:
                return f"keys of the query's residue class modulo {n}"
            case Op("//", (x, n)), Op("//", (y, m)) if n == m and self._pair(x, y):
                return f"blocks of {n}"
            case x, y if self._pair(x, y):
                return "the query's own position"
        return self._other(c)

    def _pair(self, x: Expr, y: Expr) -> bool:
        return {x, y} == {self.row, self.key}

    def _distance(self, e: Expr) -> poly.Poly | None:
        """``c`` where ``e`` is ``±(i - j) + c`` with ``c`` free of both, else None."""
        p = poly.of_expr(e)
        slopes = p.get((self.row,), 0), p.get((self.key,), 0)
        if slopes not in ((1, -1), (-1, 1)):
            return None
        rest = {m: k for m, k in p.items() if m not in ((self.row,), (self.key,))}
        names = {self.row.name, self.key.name}
        return None if any(free_vars(x) & names for m in rest for x in m) else rest

    def _grid(self, difference: Expr) -> str | None:
        """``i // W - j // W``: rows of a grid that is ``W`` wide; ``i % W - j % W``: its columns."""
        match difference:
            case Op("-", (Op("//" | "%" as name, (x, n)), Op(other, (y, m)))) if (name, n) == (other, m) and self._pair(
                x, y
            ):
                return f"{'rows' if name == '//' else 'columns'} of a grid {n} wide"
        return None

    def _band(self, bands: list[_Band]) -> str:
        back = _tightest([b.back for b in bands if b.back is not None])
        ahead = _tightest([b.ahead for b in bands if b.ahead is not None])
        words = []
        if ahead and ahead[0] == Const(0):
            words.append("causal")
            ahead = ahead[1:]
        elif ahead and not back and len(ahead) == 1:
            negative = isinstance(ahead[0], Const) and ahead[0].value < 0  # type: ignore[operator]
            return (
                "causal, without the query itself"
                if ahead[0] == Const(-1)
                else (
                    f"causal, keys at least {_text(0 - ahead[0])} back"
                    if negative
                    else f"causal, shifted by {ahead[0]}"
                )
            )
        if back and ahead and back[0] == ahead[0]:
            words.append(f"window of {_text(back[0])} keys on each side")
            back, ahead = back[1:], ahead[1:]
        words += [f"at most {_text(b)} keys back" for b in back] + [f"at most {_text(a)} keys ahead" for a in ahead]
        return "; ".join(words)

    def _other(self, c: Expr) -> str:
        captured = list(dict.fromkeys(x.tensor for x in loads(c)))
        return f"`{c}`" + (f" (depends on {', '.join(captured)})" if captured else "")


@dataclass(frozen=True)
class _Band:
    """Keys from ``back`` before the query to ``ahead`` after it; None is no limit."""

    back: Expr | None
    ahead: Expr | None


def _tightest(bounds: list[Expr]) -> list[Expr]:
    """The bounds, with the smallest in place of all constant ones."""
    numbers = [b.value for b in bounds if isinstance(b, Const)]
    rest = [b for b in bounds if not isinstance(b, Const)]
    return ([Const(min(numbers))] if numbers else []) + list(dict.fromkeys(rest))


def _disjuncts(e: Expr) -> list[Expr]:
    match e:
        case Op("or", (a, b)):
            return _disjuncts(a) + _disjuncts(b)
    return [e]


def _bracket(text: str) -> str:
    return f"({text})" if ";" in text else text


def _text(e: Expr) -> str:
    text = str(poly.to_expr(poly.of_expr(e)))
    return f"({text})" if " " in text else text


def _ordinal(n: object) -> str:
    special = {2: "2nd", 3: "3rd"}
    return special.get(n, f"{n}th") if isinstance(n, int) else str(n)
